"""The `evaluate` of a study: options of `fluxflow_exp.evaluate`, checked before anything is trained."""

import argparse
import contextlib
import io
from collections.abc import Sequence
from typing import Any

from fluxflow_exp.evaluation import arguments
from fluxflow_exp.evaluation.measures import MEASURES, lacking

OWN = {"metrics": "outcome names them", "guidance": "outcome names it, as fd@3"}


def names(metrics: Sequence[str]) -> list[str]:
    """The measures of `metrics` without their guidance."""
    return list(dict.fromkeys(metric.partition("@")[0] for metric in metrics))


def problems(words: Sequence[str], metrics: Sequence[str], arms: dict[str, dict[str, Any]]) -> list[str]:
    """What is wrong with the options, where `metrics` are measured afterwards of runs with these configurations."""
    options = _parsed(words)
    if isinstance(options, str):
        return [f"evaluate: {options}. python -m fluxflow_exp.evaluate --help says what there is"]
    if not metrics:
        return ["evaluate: every outcome is measured while training, so its options act on nothing"] if words else []
    loose = [word for word in words if not word.startswith("-") and "=" not in word]
    found = [f"evaluate: {word}: each option is one word, as --images={word}" for word in loose]
    found += [f"evaluate: --{name}: {why}" for name, why in OWN.items() if getattr(options, name)]
    found += [f"evaluate: {line}" for line in arguments.problems(options)]
    wanted = names(metrics)
    idle = [word for word in words if word not in acting(words, wanted)]
    found += [f"evaluate: {word} acts on {', '.join(arguments.TAKERS[_of(word)])} alone: none is an outcome"
              for word in idle]  # fmt: skip
    absent = lacking(wanted, features=options.features)
    if absent:
        found.append(f"outcome {absent}")
    if "clip_score" in wanted and options.clip is None:
        found.append("outcome clip_score: evaluate: [--clip=NAME_OR_FOLDER] says by which CLIP")
    sizes = {arm: values["data"].get("img_size") for arm, values in arms.items()}
    found += [
        f"outcome {name}: needs images of {MEASURES[name].least} pixels a side, and those of arm {arm} have {size}"
        for name in wanted
        for arm, size in sizes.items()
        if isinstance(size, int) and size < MEASURES[name].least
    ]
    return found


def acting(words: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Those of the options that act on any of the measures `wanted`; the command refuses the others."""
    return [word for word in words if set(arguments.TAKERS.get(_of(word), wanted)) & set(wanted)]


def _of(word: str) -> str:
    """The option that a word sets."""
    return word.partition("=")[0]


def _parsed(words: Sequence[str]) -> argparse.Namespace | str:
    """The options, or what they are refused for."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return arguments.parser().parse_intermixed_args(["RUN", *words])
    except SystemExit:
        return said.getvalue().strip().rpartition("error: ")[2].splitlines()[0]
