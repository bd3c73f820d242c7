"""Options that would act on nothing: what is asked for is done, or refused with the reason."""

from typing import Any


class Idle(str):
    """What is wrong with a key that acts on nothing. A run that was begun with it, by whatever version, is as it is."""


def idle_problems(given: dict[str, Any], *, acts: bool, needs: str) -> list[str]:
    """A line for each option of `given` (spelling → value or None) that nothing takes, since `needs` is off."""
    asked = [option for option, value in given.items() if value is not None and value is not False]
    return [] if acts else [Idle(f"{option} acts with {needs} alone: add that, or leave it out") for option in asked]
