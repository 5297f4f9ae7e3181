"""Runs the cases of TensorFlow and Keras in a process of their own: beside PyTorch, which other tests load, it can crash."""

import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("keras_cases.py")


@pytest.mark.timeout(240)
def test_keras_models_and_saved_models() -> None:
    arguments = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(CASES)]

    done = subprocess.run(arguments, capture_output=True, text=True, timeout=220)

    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]  # it is 5 if none of them ran
