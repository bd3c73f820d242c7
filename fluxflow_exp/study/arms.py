"""The arms of a study composed and checked as the training command would, all of them before anything is trained."""

from typing import Any

from hydra.utils import get_class

from fluxflow_exp.errors import UserError, did_you_mean, few
from fluxflow_exp.evaluation.measures import MEASURES, ON_SCHEDULE
from fluxflow_exp.monitor.metrics import higher_is_better
from fluxflow_exp.preflight import check, words
from fluxflow_exp.run.differing import leading
from fluxflow_exp.run.identity import ABSENT, flatten, identity_differences
from fluxflow_exp.study import evaluating
from fluxflow_exp.study.runs import SHOWN_KEYS, Run, words_of
from fluxflow_exp.study.spec import Spec

ALWAYS = ("val_psnr", "val_l1", "val_flow", "prompt_accuracy")  # held-out rows, whatever evaluation.metrics says
ASIDE = ("name", "output_root", "choices", "resume", "seed")  # sections that are not an arm's
PARTS = {"prompt_accuracy": ("kind", "colour", "ground"), "val_copies": ("held_out",)}


def check_all(spec: Spec, changes: dict[str, list[str]], *, trains: bool = True) -> dict[str, Run]:
    """The first run of each arm, composed and checked; devices are looked at if this machine `trains`.

    UserError: all that is wrong with any arm or outcome.
    """
    runs = first_runs(spec, changes)
    problems = arm_problems(spec, runs, trains=trains)
    if problems:
        raise UserError(*(f"{spec.source}: {line}" for line in problems))
    return runs


def first_runs(spec: Spec, changes: dict[str, list[str]]) -> dict[str, Run]:
    """The first run of each arm."""
    seed = (spec.seeds or [0])[0]
    rate = min(spec.learning_rates.rates) if spec.learning_rates else None  # which diverges last, while it is timed
    return {
        arm: Run(arm, seed, words_of(spec, arm, changes=changes.get(arm, []), rate=rate), spec.config_dir)
        for arm in spec.arms
    }


def arm_problems(spec: Spec, runs: dict[str, Run], *, trains: bool = True) -> list[str]:
    """All that is wrong with any arm or outcome, one line each; `runs` as of `first_runs`."""
    here = trains and spec.where == "here"
    found = {arm: _problems(run, here=here) for arm, run in runs.items()}
    common = [line for line in next(iter(found.values())) if all(line in lines for lines in found.values())]
    problems = common + [f"arm {arm}: {line}" for arm, lines in found.items() for line in lines if line not in common]
    whole = {arm: run for arm, run in runs.items() if _composed(run)}
    problems += _same_files(whole)
    wanted = [*spec.outcome, *([spec.learning_rates.metric] if spec.learning_rates else [])]
    values = {arm: run.values for arm, run in whole.items()}
    for metric in dict.fromkeys(wanted):
        problems += metric_problems(metric, values)
    if spec.side_by_side > 1:
        problems += [
            f"arm {arm}: minutes of a GPU that others share are not alike: give updates or epochs, or side_by_side=1"
            for arm, each in values.items()
            if each.get("minutes") or any(step.get("minutes") for step in each["stage"]["steps"].values())
        ]
    afterwards = [metric for metric in wanted if not in_rows(metric) and metric.partition("@")[0] in MEASURES]
    return problems + evaluating.problems(spec.evaluate, afterwards, values)


def _problems(run: Run, *, here: bool) -> list[str]:
    values = _composed(run)
    if values is None:
        return words.problems(list(run.words), here=here, config_dir=run.config_dir)
    return check.problems(values, here=here)


def _composed(run: Run) -> dict[str, Any] | None:
    try:
        return run.values
    except UserError:
        return None


def in_rows(metric: str) -> bool:
    """Whether training itself measures it; else it is measured by `fluxflow_exp.evaluate` afterwards."""
    return metric.startswith(("val_", "prompt_accuracy"))


def metric_problems(metric: str, arms: dict[str, dict[str, Any]]) -> list[str]:
    """What is wrong with an outcome, given the configuration of each arm."""
    name, _, guidance = metric.partition("@")
    rows = list(dict.fromkeys([*ALWAYS, *(f"val_{each}" for each in ON_SCHEDULE)]))
    rows += [f"{whole}_{part}" for whole, parts in PARTS.items() for part in parts]
    if name not in MEASURES and name not in rows:
        known = [*rows, *MEASURES]
        return [f"outcome {metric}: there is no such held-out metric{did_you_mean(metric, known) or '.'} "
                f"There are, measured while training: {', '.join(rows)}; measured afterwards: "
                f"{', '.join(each for each in MEASURES if each not in rows)}"]  # fmt: skip
    if in_rows(name):
        return _row_problems(name, guidance, arms)
    measure = MEASURES[name]
    problems = []
    if measure.of == "samples" and not _is_number(guidance):
        problems.append(f"outcome {metric}: name the guidance of the samples, as {name}@1 or {name}@3")
    if measure.of != "samples" and guidance:
        problems.append(f"outcome {metric}: {name} takes no guidance")
    if measure.of != "reconstructions":
        problems += [_no_flow(metric, arm) for arm, values in arms.items() if not _trains(values, "flow")]
    if higher_is_better(name) is None:
        problems.append(f"outcome {metric}: whether more of it is better, its name does not tell")
    return problems


def _row_problems(name: str, guidance: str, arms: dict[str, dict[str, Any]]) -> list[str]:
    if guidance:
        return [f"outcome {name}@{guidance}: {name} is measured while training, at evaluation.guidance_scale"]
    problems = []
    measure = next((each for each in MEASURES if name.removeprefix("val_").startswith(each)), None)
    for arm, values in arms.items():
        wanted = values["evaluation"]["metrics"]
        needs_flow = name == "val_flow" or name.startswith("prompt_accuracy")
        if name not in (*ALWAYS, *(f"prompt_accuracy_{part}" for part in PARTS["prompt_accuracy"])):
            asked = [each for each in MEASURES if each in wanted and name in (f"val_{each}", "val_copies_held_out")]
            needs_flow = bool(measure) and MEASURES[measure or ""].of == "samples"
            if not asked:
                more = ",".join([*wanted, measure or ""])
                problems.append(f"outcome {name}: arm {arm} does not measure it: evaluation.metrics=[{more}] does")
        if needs_flow and not _trains(values, "flow"):
            problems.append(_no_flow(name, arm))
        if name.startswith("prompt_accuracy"):
            problems += _prompt_problems(name, arm, values)
        if values["evaluation"]["every_epochs"] is None:
            problems.append(f"outcome {name}: arm {arm} has evaluation.every_epochs=null, so nothing is measured")
    return problems


def _prompt_problems(name: str, arm: str, values: dict[str, Any]) -> list[str]:
    if not getattr(get_class(values["data"]["_target_"]), "reads_back", True):
        return [f"outcome {name}: only data=shapes can tell what an image shows, and arm {arm} has other data"]
    if not values["evaluation"]["prompts"]:
        return [f"outcome {name}: arm {arm} has evaluation.prompts=0, so nothing is measured"]
    return []


def _no_flow(metric: str, arm: str) -> str:
    return f"outcome {metric}: arm {arm} trains no flow transformer, which it is a measure of"


def _trains(values: dict[str, Any], player: str) -> bool:
    return any(player in step.get("optimizers", {}) for step in values["stage"]["steps"].values())


def _is_number(text: str) -> bool:
    try:
        return float(text) >= 0
    except ValueError:
        return False


def apart(spec: Spec, runs: dict[str, Run]) -> list[str]:
    """For each arm but the reference, the keys in which both differ, with both values."""
    lines = []
    for arm in list(spec.arms)[1:]:
        found = leading(identity_differences(runs[arm].values, runs[spec.reference].values))
        keys = [f"{key} {_said(mine)} (there {_said(theirs)})" for key, (theirs, mine) in found.items()]
        lines.append(f"{arm} differs from {spec.reference} in {few(keys, SHOWN_KEYS)}")
    return lines


def _said(value: Any) -> Any:
    return "absent" if value == ABSENT else value


def measured_apart(spec: Spec, runs: dict[str, Run]) -> list[str]:
    """Arms whose data or measuring is not the reference's, so that their values may not mean the same."""
    notes = []
    for arm in list(spec.arms)[1:]:
        keys = [key for key in _differing(runs[arm].values, runs[spec.reference].values)
                if key.startswith(("data.", "evaluation."))]  # fmt: skip
        if keys:
            notes.append(
                f"{arm} differs from {spec.reference} in {few(keys, SHOWN_KEYS)}: values compare as far as both "
                "were measured on the same images in the same way"
            )
    return notes


def _differing(mine: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """The keys that have other values, but for names and places."""
    one, other = (dict(flatten({key: each[key] for key in each if key not in ASIDE})) for each in (mine, theirs))
    return [key for key in {**one, **other} if one.get(key, ABSENT) != other.get(key, ABSENT)]


def _same_files(runs: dict[str, Run]) -> list[str]:
    """Arms whose runs are not told apart: a difference between them is nothing but chance."""
    found, names = [], list(runs)
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            if identity_differences(runs[one].values, runs[other].values):
                continue
            keys = _differing(runs[one].values, runs[other].values)
            found.append(
                f"arms {one} and {other} differ in {few(keys, SHOWN_KEYS)} alone, which makes no other run"
                if keys
                else f"arms {one} and {other} come to the same configuration"
            )
    return found
