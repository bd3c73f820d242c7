"""One thing that was looked at, and whether it is as it should be."""

from dataclasses import dataclass

ACTS = " acts"  # ends the name of a check of a key
LATER = " in a longer step"  # stands behind it where the step ends before the key can act


@dataclass(frozen=True)
class Check:
    step: str  # "" for the run as a whole
    check: str
    passed: bool
    note: str = ""
