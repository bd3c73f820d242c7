"""Arms made equal to the reference, step by step, by the search of `fluxflow_exp.match`."""

from typing import Any

from fluxflow_exp.config.override_keys import merged
from fluxflow_exp.match.arguments import Asked
from fluxflow_exp.match.command import UPDATES, match
from fluxflow_exp.match.output import as_words
from fluxflow_exp.study.kept import Kept
from fluxflow_exp.study.runs import Run
from fluxflow_exp.study.spec import Spec

NAMES = {"params": "parameters", "flops": "FLOPs", "memory": "memory", "time": "time"}
AXES = {"parameters": "params", "flops": "flops", "memory": "memory", "time": "time"}


def equal(spec: Spec, runs: dict[str, Run], kept: Kept, *, only_kept: bool = False) -> dict[str, list[dict[str, Any]]]:
    """Arm → what `match` found for each step whose parts it changes; the reference has none.

    `only_kept`: nothing is searched; arms that were not matched before are left out.
    """
    if spec.equal == "nothing":
        return {}
    found: dict[str, list[dict[str, Any]]] = {}
    for arm in list(spec.arms)[1:]:
        source = [spec.equal, spec.where, runs[arm].values, runs[spec.reference].values]
        made = kept.get(f"equal {arm}", source)
        if made is None and not only_kept:
            made = _matched(spec, arm, runs)
            kept.put(f"equal {arm}", source, made)
        if made is not None:
            found[arm] = made
    return found


def overrides(found: list[dict[str, Any]]) -> list[str]:
    """The changes as overrides."""
    changes: dict[str, Any] = {}
    for each in found:
        changes |= each["changes"]
    return as_words(changes)


def notes(matches: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Where arms are not as equal as they should be."""
    return [
        f"{arm} is not equal in {NAMES[each['axis']]} in step {each['step']}: it has {100 * each['difference']:+.1f} "
        "%, the nearest that was found"
        for arm, found in matches.items()
        for each in found
        if abs(each["difference"]) > each["tolerance"]
    ]


def _matched(spec: Spec, arm: str, runs: dict[str, Run]) -> list[dict[str, Any]]:
    """A search for each step that trains parts which no earlier one has."""
    from fluxflow_exp.config.compose import typed
    from fluxflow_exp.step_plan import trained_parts

    values = runs[arm].values
    config = typed(values)
    done: set[str] = set()
    found: list[dict[str, Any]] = []
    for step in values["stage"]["steps"]:
        parts = trained_parts(config.stage.steps[step], config.model)
        own = {part for part in parts if "activation" in values["model"][part]} - done
        if not own:
            continue
        done |= own
        words = merged(merged(spec.base, spec.arms[arm]), overrides(found))
        theirs = merged(spec.base, spec.arms[spec.reference])
        measured = spec.equal == "time" and spec.where == "here"
        asked = Asked(words, [], AXES[spec.equal], step, spec.config_dir, measured, UPDATES, theirs)
        print(f"Making {arm} equal to {spec.reference} by {spec.equal}, step {step}", flush=True)
        found.append(match(asked))
    return found
