"""Checks of the rule by which a step ends early."""

from typing import Any

from fluxflow_exp.errors import did_you_mean

LIMITS = ("below", "above", "patience", "max_epochs")


def problems(rule: dict[str, Any], known: dict[str, str | None], losses: dict[str, Any]) -> list[str]:
    """Return a line for each thing wrong with a rule.

    `known`: metric → the loss of the trainer's node `losses` that logs it, or the loss's key that is not 0 then, or
    None: it is always logged.
    """
    found = []
    metric, given = rule["metric"], [key for key in LIMITS if rule[key] is not None]
    if metric is None:
        return [f"{given[0]} is set and metric is not: name what to watch"] if given else []
    needed = known.get(metric)
    if metric not in known:
        logged = [name for name, loss in known.items() if loss is None or _on(losses, loss)]
        hint = did_you_mean(metric, logged) or "."
        found.append(f"metric={metric!r} is never logged in this step{hint} Logged: {', '.join(logged)}")
    elif needed and not _on(losses, needed):
        found.append(f"metric={metric!r} is never logged: trainer.{needed} is off")
    if not given:
        found.append("needs below, above, patience or max_epochs")
    if rule["below"] is not None and rule["above"] is not None:
        found.append("takes below or above, not both")
    return found


def _on(losses: Any, path: str) -> bool:
    for key in path.split("."):
        losses = (losses or {}).get(key)
    return bool(losses)
