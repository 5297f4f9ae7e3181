"""Where a search tells how far it is."""

from typing import Protocol


class Progress(Protocol):
    """Hears of every stage and step of a search, in order."""

    def stage(self, title: str, steps: int) -> None:
        """A stage of so many steps begins."""

    def step(self, name: str) -> None:
        """One step of the stage is done."""


class Silent:
    """Tells nobody."""

    def stage(self, title: str, steps: int) -> None:
        """Say nothing."""

    def step(self, name: str) -> None:
        """Say nothing."""
