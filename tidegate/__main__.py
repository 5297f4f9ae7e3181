"""Run the `tidegate` command as `python -m tidegate`."""

from tidegate.cli.main import run

if __name__ == "__main__":
    run()
