"""Every number of a configuration has a range, and `validate=true` keeps to it: tried at its bounds and beyond them."""

import inspect
import math
import re
import typing
from pathlib import Path

import pytest
from annotated_types import Ge, Gt, Le, Lt

from fluxflow_exp import main
from fluxflow_exp.config import bounds, schema
from fluxflow_exp.config.compose import conf_dir
from fluxflow_exp.config.published import locate
from fluxflow_exp.errors import UserError
from fluxflow_exp.preflight import targets
from tests.conftest import toy
from tests.helpers.children import command

CLASSES = [each for each in vars(schema).values() if getattr(each, "__module__", "") == schema.__name__]
SECTIONS = {
    **{kind: f"{kind.__name__.lower()}." for kind in CLASSES},
    schema.RunConfig: "",
    schema.Step: "stage.steps.vae.",
    schema.Transition: "stage.steps.vae.transition_on.",
    schema.Ema: "stage.steps.vae.ema.",
    schema.MicroBatch: "hardware.micro_batch.",
    schema.Slurm: "hardware.slurm.",
}
TARGETS = sorted(
    {
        target
        for path in Path(conf_dir()).rglob("*.yaml")
        for target in re.findall(r"_target_: ((?:fluxflow_exp|torch)\.\S+?),?$", path.read_text(), re.MULTILINE)
    }
)


def hints_of_frame():
    return {
        f"{section}{key}": hint
        for kind, section in SECTIONS.items()
        for key, hint in typing.get_type_hints(kind, include_extras=True).items()
    }


def hints_of_targets():
    return {
        (target, key): hint
        for target in TARGETS
        for key, hint in targets.hints_of(locate(target)).items()
        if key in inspect.signature(locate(target)).parameters and key not in targets.LIVE
    }


def is_number(hint):
    if hint in (int, float):
        return True
    if typing.get_origin(hint) is typing.Literal:
        return False
    return any(is_number(inner) for inner in typing.get_args(hint))


def at_and_beyond(hint):
    """Values that a range holds, and values that it does not."""
    whole = not is_real(hint)
    kept, refused = [], [math.nan, math.inf, -math.inf]
    for bound in bounds.range_of(hint):
        limit = next(getattr(bound, name) for name in ("ge", "gt", "le", "lt") if hasattr(bound, name))
        up = 1 if isinstance(bound, Ge | Gt) else -1
        step = up if whole else up * 1e-6
        (kept if isinstance(bound, Ge | Le) else refused).append(limit)
        kept += [limit + step] if isinstance(bound, Gt | Lt) else []
        refused.append(limit - step)
    return kept or [-7, 0, 7], refused


def is_real(hint):
    if hint in (float, typing.Any):
        return True
    return typing.get_origin(hint) is not typing.Literal and any(is_real(inner) for inner in typing.get_args(hint))


def test_every_number_of_the_frame_and_of_what_is_built_declares_its_range():
    assert len(TARGETS) > 25
    assert len(CLASSES) > 12
    hints = {**hints_of_frame(), **hints_of_targets()}
    assert [key for key, hint in hints.items() if is_number(hint) and bounds.range_of(hint) is None] == []


RANGED = {key: (hint, None) for key, hint in hints_of_frame().items() if bounds.range_of(hint) is not None} | {
    f"data.datasets.{target.replace('.', '-')}.{key}": (hint, target)
    for (target, key), hint in hints_of_targets().items()
    if bounds.range_of(hint) is not None
}
KEPT, REFUSED = ({key: at_and_beyond(hint)[side] for key, (hint, _) in RANGED.items()} for side in (0, 1))
ROUNDS = [(side, number) for side in (KEPT, REFUSED) for number in range(max(map(len, side.values())))]


def given(key, value):
    hint = RANGED[key][0]
    return [value] if any(typing.get_origin(each) is list for each in (hint, *typing.get_args(hint))) else value


@pytest.mark.parametrize(("side", "number"), ROUNDS, ids=[f"{'kept' if s is KEPT else 'beyond'}{n}" for s, n in ROUNDS])
def test_numbers_at_their_bounds_pass_and_those_beyond_are_a_line_each(side, number, tmp_path):
    values = toy(tmp_path)
    tried = {key: each[number] for key, each in side.items() if number < len(each)}
    for key, value in tried.items():
        *path, leaf = key.split(".")
        node = values
        for name in path:
            node = node.setdefault(name, {})
        node |= {leaf: given(key, value)} | ({"_target_": RANGED[key][1]} if RANGED[key][1] else {})
    with pytest.raises(UserError) as caught:  # arguments that are not set, at least
        main.train({**values, "validate": True})
    lines = [line for line in caught.value.args if " must be " in line]
    if side is KEPT:
        assert lines == []
        return
    of = {line.partition(" ")[0].removesuffix(".0"): line for line in lines}
    assert sorted(of) == sorted(tried)
    assert len(lines) == len(tried)
    for key, value in tried.items():
        assert of[key].endswith(f", not {value}"), of[key]


def test_a_number_beyond_its_bounds_is_one_line_of_the_command(tmp_path):
    done = command(tmp_path, "validate=true", "hardware=cpu", "checkpoint.keep=0")
    assert done.returncode == 2
    assert done.stderr == "error: checkpoint.keep must be at least 1, not 0\n"
