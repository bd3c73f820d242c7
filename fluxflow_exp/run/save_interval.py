"""When to save: after so many updates, so many minutes, or as often as saves and losses of the machine cost least."""

import math
from typing import Literal

from fluxflow_exp.machine import clock

PRIOR_HOURS = 6.0  # between losses of the machine, before any has been seen
LIMITS_MINUTES = (1.0, 60.0)

Minutes = float | Literal["auto"] | None


class SaveClock:
    """Never changes what is computed. `kills` and `lived` (seconds): how often, in how long, the run was cut off."""

    def __init__(
        self, *, every_minutes: Minutes, every_updates: int | None, kills: int = 0, lived: float = 0.0
    ) -> None:
        self.every_minutes, self.every_updates = every_minutes, every_updates
        self.kills, self.lived = kills, lived
        self.cost: float | None = None  # seconds a save; None: none was made yet
        self._told = False
        self.saved()

    def saved(self, cost: float | None = None, *, goes_on: bool = True) -> str | None:
        """Begin anew. With `every_minutes=auto` the first measured `cost` gives an interval.

        A line about it is returned once, where what was saved `goes_on`.
        """
        self._last = clock.now()
        if cost is None:
            return None
        self.cost = cost
        if self.every_minutes != "auto" or self._told or not goes_on:
            return None
        self._told = True
        cuts = f"is expected to be cut off every {self.between_losses() / 3600:.2g} h"
        if self.kills:
            times = f"{self.kills} times" if self.kills > 1 else "once"
            lived = f" in {clock.shown(self.lived)}" if self.lived else ""  # told by a session that ended by itself
            cuts = f"has been cut off {times}{lived}"
        return f"Saving every {self.minutes():.1f} min from now on: a save takes {cost:.2f} s, and the run {cuts}"

    def minutes(self) -> float | None:
        """The interval."""
        if self.every_minutes != "auto":
            return self.every_minutes
        if self.cost is None:
            return LIMITS_MINUTES[0]
        least, most = LIMITS_MINUTES
        return min(max(best_interval(self.cost, self.between_losses()) / 60, least), most)

    def between_losses(self) -> float:
        """Expected seconds until the machine is lost; one loss in `PRIOR_HOURS` counts as seen."""
        return (PRIOR_HOURS * 3600 + self.lived) / (1 + self.kills)

    def due(self, update: int) -> bool:
        by_count = bool(self.every_updates) and update % (self.every_updates or 1) == 0
        minutes = self.minutes()
        return by_count or (minutes is not None and (clock.now() - self._last) / 60 >= minutes)


def best_interval(cost: float, between: float) -> float:
    """Seconds of work between saves of `cost` seconds that lose least when the machine is lost every `between` seconds.

    Daly 2006, eq. 37: a higher-order form of Young's √(2 · cost · between) (1974).
    """
    if cost >= 2 * between:
        return between
    ratio = cost / (2 * between)
    return math.sqrt(2 * cost * between) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - cost
