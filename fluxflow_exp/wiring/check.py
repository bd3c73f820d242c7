"""One thing that was looked at, and whether it is as it should be."""

from dataclasses import dataclass

ACTS = " acts"  # ends the name of a check of a key


@dataclass(frozen=True)
class Check:
    step: str  # "" for the run as a whole
    check: str
    passed: bool
    note: str = ""
