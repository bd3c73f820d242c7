"""The differences between a run's configuration and its parent's.

The parent is the run whose weights it started from (`init_from`), else the shipped defaults of its stage.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra

from fluxflow_exp.config.compose import conf_dir, resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.errors import UserError
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.identity import ABSENT, flatten

# Names and places say nothing about a run; which files of groups were chosen is told by what stands in them.
ASIDE = ("name", "output_root", "resume", "validate", "choices")


@dataclass
class Parent:
    name: str
    differences: list[tuple[str, Any, Any]]  # key, value there, value here
    note: str | None = None  # why another parent than the one that was meant


def find(values: dict[str, Any]) -> Parent:
    """The parent of a run with the frozen configuration `values`."""
    steps = values["stage"]["steps"]
    sources = [step["init_from"] for step in steps.values() if step.get("init_from")]
    note = None
    for source in dict.fromkeys(sources):
        given = Path(source).expanduser()
        run = RunFolder(given if given.is_dir() else given.parent.parent)
        if run.config.exists():
            return Parent(f"the run in {run.path}, whose weights it started from", differences(run.frozen(), values))
        note = f"it started from {source}, which is not in a run folder that can be read here"
    stage = str(values["stage"]["name"])
    there = f"there is no shipped stage {stage!r}"
    if stage in {path.stem for path in Path(conf_dir(), "stage").glob("*.yaml")}:
        try:
            return Parent(f"the shipped defaults of stage={stage}", differences(shipped(stage), values), note)
        except UserError:  # it has none of its model without init_from
            there = f"stage={stage} has no defaults of a model"
    return Parent("the shipped defaults", differences(shipped(None), values), f"{note}; {there}" if note else there)


def differences(theirs: dict[str, Any], mine: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Key, their value, my value, where these differ; in the order of my keys."""
    there, here = (
        dict(flatten({name: value for name, value in values.items() if name not in ASIDE})) for values in (theirs, mine)
    )
    return [
        (key, there.get(key, ABSENT), here.get(key, ABSENT))
        for key in dict.fromkeys([*here, *there])
        if there.get(key, ABSENT) != here.get(key, ABSENT)
    ]


@lru_cache(maxsize=16)  # half a second each
def shipped(stage: str | None) -> dict[str, Any]:
    """The resolved configuration of a stage without any override; None: of the bare command."""
    under_way = GlobalHydra.instance().hydra  # composing would take away what Hydra knows of the job that calls this
    try:
        return resolve(compose_config([] if stage is None else [f"stage={stage}"]))
    finally:
        GlobalHydra.instance().hydra = under_way
