"""Write config.md beside this file: every key of the frame, and every choice of every group.

python docs/reference/make_config.py
"""

import dataclasses
import inspect
import re
import types
import typing
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from fluxflow_exp.config import bounds, schema
from fluxflow_exp.config.compose import conf_dir
from fluxflow_exp.config.published import locate
from fluxflow_exp.preflight import targets

HEAD = """# Configuration reference

Written by `docs/reference/make_config.py` from `fluxflow_exp/config/schema.py` and `conf/`; a test compares them.
Keys are joined by dots on the command line (`checkpoint.keep=3`). `GROUP=CHOICE` takes a file of the group whole; any
key of it can be set after that. Intervals count optimizer updates unless their name says otherwise.
`python -m fluxflow_exp --cfg job` prints the whole configuration of a command.
"""
ARGUMENTS = """
## Arguments of what is built

What they do: [losses](../explanation.md#losses-of-the-autoencoder), [the flow](../explanation.md#the-flow).
One that its group's file below does not have is added by a `+`: `+model.flow_processor.value_residual=true`.
Of torch's optimizers, those whose range is checked.
"""
GROUPS = (
    "model",
    "model/autoencoder",
    "model/text_encoder",
    "data",
    "stage",
    "loss",
    "optimizer",
    "scheduler",
    "hardware",
    "tracking",
)
TARGET = re.compile(r"_target_: ([\w.]+)")


def text() -> str:
    parts = [HEAD, "\n## Keys of every run\n"]
    classes = [schema.RunConfig, schema.Stage, schema.Step, schema.Transition, schema.Ema, schema.Model]
    classes += [
        schema.Hardware,
        schema.MicroBatch,
        schema.Checkpoint,
        schema.Samples,
        schema.Evaluation,
        schema.Health,
        schema.Publish,
        schema.Cache,
        schema.Slurm,
        schema.Tracking,
    ]
    for kind in classes:
        parts.append(_table(kind))
    parts += [ARGUMENTS, _arguments()]
    for group in GROUPS:
        parts.append(f"\n## Group `{group}`\n")
        parts += [_choice(path) for path in sorted((Path(conf_dir()) / group).glob("*.yaml"))]
    return "".join(parts)


def _table(kind: type) -> str:
    doc = inspect.getdoc(kind) or ""
    about = "" if doc.startswith(f"{kind.__name__}(") else f"\n{doc}\n"
    comments = dict(re.findall(r"^    (\w+):.*?  # (.*)$", inspect.getsource(kind), re.MULTILINE))
    hints = typing.get_type_hints(kind, include_extras=True)
    said = {name: comment.replace("|", "\\|") for name, comment in comments.items()}
    rows = [
        f"| `{f.name}` | {_type(hints[f.name])} | {_default(f)} | {said.get(f.name, '')} |"
        for f in dataclasses.fields(kind)
    ]
    return "\n".join([f"\n### {kind.__name__}\n{about}", "| key | type | default | |", "|---|---|---|---|", *rows, ""])


def _type(hint: Any) -> str:
    ranged = bounds.range_of(hint)
    name = _plain(hint).replace("|", "or")
    if not ranged:
        return name
    whole = not re.search("float|Any", name)
    return f"{name}, {bounds.in_words(ranged, whole=whole)}"


def _plain(hint: Any) -> str:
    """A type's name without the metadata of its annotation."""
    if typing.get_origin(hint) is typing.Annotated:
        return _plain(hint.__origin__)
    arguments = typing.get_args(hint)
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return " | ".join(_plain(each) for each in arguments)
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(str(each) for each in arguments)
    if arguments:
        return f"{hint.__origin__.__name__}[{', '.join(_plain(each) for each in arguments)}]"
    return str(getattr(hint, "__name__", hint)).replace("NoneType", "null")


def _arguments() -> str:
    """A table for each class and function that the groups name: its arguments, their types and ranges."""
    found = {
        target: None
        for group in GROUPS
        for path in sorted((Path(conf_dir()) / group).glob("*.yaml"))
        for target in TARGET.findall(path.read_text(encoding="utf-8"))
    }
    return "".join(_signature(target) for target in found)


def _signature(target: str) -> str:
    called = locate(target)
    hints, parameters = targets.hints_of(called), inspect.signature(called).parameters
    rows = [
        f"| `{name}` | {_type(hints[name])} | {_shown(p.default)} |"
        if p.kind is not p.VAR_KEYWORD
        else f"| any other key | {_type(hints[name])} of your own | absent |"
        for name, p in parameters.items()
        if name not in targets.LIVE
        and name in hints
        and (target.startswith("fluxflow") or bounds.range_of(hints[name]))
    ]
    return "\n".join([f"\n### `{target}`\n", "| argument | type | default |", "|---|---|---|", *rows, ""])


def _shown(value: Any) -> str:
    return "needed" if value is inspect.Parameter.empty else "null" if value is None else f"`{value}`"


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is MISSING or field.default == MISSING:
        return "from its group"
    if field.default is not dataclasses.MISSING:
        return "null" if field.default is None else f"`{field.default}`" if field.default != "" else "empty"
    if field.default_factory in (dict, list):
        return "empty"
    made = field.default_factory() if field.default_factory is not dataclasses.MISSING else None
    return f"`[{', '.join(made)}]`" if isinstance(made, list) else "see below"


def _choice(path: Path) -> str:
    return f"\n### `{path.stem}`\n\n```yaml\n{path.read_text(encoding='utf-8').rstrip()}\n```\n"


if __name__ == "__main__":
    Path(__file__).with_name("config.md").write_text(text(), encoding="utf-8")
