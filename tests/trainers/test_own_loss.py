"""A loss of the user's own, from a module outside the package, is checked and trained under a key of its own."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fluxflow_exp.config import published
from fluxflow_exp.errors import UserError
from fluxflow_exp.losses.terms import Terms, computed
from fluxflow_exp.preflight import check
from fluxflow_exp.wiring.gradients import reached
from tests.conftest import toy
from tests.helpers.trainers import build, updated

MODULE = """
import torch


class Slope:
    def __init__(self, *, weight: float = 0.5, name: str = "slope", cut: bool = False) -> None:
        if weight < 0:
            raise ValueError("weight must be ≥ 0")
        self.weights, self.cut = {name: weight}, cut

    def __call__(self, found, wanted, *more):
        error = (found.float() - wanted.float()).diff(dim=-1).square()
        return {name: error.mean() if self.cut else error.flatten(1).mean(1) for name in self.weights}


class Nameless:
    pass


class Plain:
    def __init__(self, *, gives: str) -> None:
        self.weights, self.gives = {"slope": 1.0}, gives

    def __call__(self, found, wanted, *more):
        values = (found - wanted).flatten(1).mean(1)
        return values if self.gives == "tensor" else {"slope": values.to(getattr(torch, self.gives))}


class Pair:
    def __init__(self) -> None:
        self.weights = {"slope": 1.0}

    def __call__(self, found, wanted):
        return {"slope": (found - wanted).flatten(1).mean(1)}
"""
AUTOENCODER = {"compressor", "expander"}
FLOW = {"flow_processor", "text_encoder"}


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(published, "_own", set())
    monkeypatch.delitem(sys.modules, "mine", raising=False)


def own(step: str, key: str = "slope", kind: str = "mine.Slope", **arguments: Any) -> str:
    words = ", ".join([f"_target_: {kind}", *(f"{name}: {value}" for name, value in arguments.items())])
    return f"+stage.steps.{step}.trainer.{key}={{{words}}}"


@pytest.mark.parametrize(("step", "parts"), [("vae", AUTOENCODER), ("flow", FLOW)])
def test_it_is_summed_and_reaches_the_parts_that_are_trained(tmp_path: Path, step: str, parts: set[str]) -> None:
    chosen = [own(step), f"stage.steps.{step}.transition_on={{metric: slope, below: 0.1}}"]
    assert check.problems(toy(tmp_path, *chosen)) == []
    trainer, batch = build(tmp_path, step, *chosen)
    assert reached(trainer, batch, 0)["slope"] == set(trainer.reaches["slope"]) == parts
    assert trainer.metrics["slope"] == "slope"
    assert updated(trainer, batch)["slope"] > 0


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (own("vae", weight=-1), "trainer.slope: weight must be ≥ 0"),
        (own("vae", wait=1), "takes no 'wait'; did you mean 'weight'?"),
        (own("vae", kind="mine.Nameless"), "trainer.slope: Nameless needs `weights`"),
        (own("vae", name="l1"), "trainer.slope: there is another 'l1'"),
        (
            own("vae", "perceptal", "fluxflow_exp.losses.perceptual.Perceptual"),
            "'perceptal'; did you mean 'perceptual'?",
        ),
        (
            own("vae", "perceptual"),
            "perceptual takes a Perceptual or a class of your own that inherits from it, and mine",
        ),
        (own("vae", kind="mine.Expander2"), "cannot find 'mine.Expander2'"),
        (own("vae", kind="mime.Slope"), "(No module named 'mime'). Modules are looked for among installed ones and in"),
        ("+stage.steps.vae.trainer.contrst=0.1", "takes no 'contrst'; did you mean 'contrast'?"),
    ],
)
def test_what_is_wrong_with_it_is_said_before_the_run(tmp_path: Path, word: str, said: str) -> None:
    (line,) = check.problems(toy(tmp_path, word))
    assert said in line
    assert line.startswith("stage.steps.vae.trainer.")


def test_terms_of_another_shape_are_refused(tmp_path: Path) -> None:
    trainer, batch = build(tmp_path, "vae", own("vae", cut="true"))
    with pytest.raises(UserError, match=r"trainer\.slope must give \(8,\) values of slope, not slope \(\)"):
        updated(trainer, batch)


def test_what_is_no_dict_of_terms_is_refused_by_its_key(tmp_path: Path) -> None:
    for gives, said in (
        ("tensor", r"trainer\.slope must give a dict of terms \(name → \(8,\) tensor\), not a Tensor"),
        ("int32", r"trainer\.slope must give .* not slope \(8,\) of torch\.int32, which is not floating point"),
    ):
        trainer, batch = build(tmp_path, "vae", own("vae", kind="mine.Plain", gives=gives))
        with pytest.raises(UserError, match=said):
            updated(trainer, batch)


def test_terms_are_made_float32() -> None:
    class Half:
        weights = {"half": 1.0}

        def __call__(self, found: Tensor) -> Terms:
            return {"half": found.half()}

    terms, _ = computed({"half": Half()}, torch.ones(2))
    assert terms["half"].dtype == torch.float32


def test_a_loss_of_another_kind_of_step_is_refused_before_the_run(tmp_path: Path) -> None:
    assert check.problems(toy(tmp_path, own("vae", kind="mine.Pair"))) == []
    (line,) = check.problems(toy(tmp_path, own("flow", kind="mine.Pair")))
    assert "trainer.slope: this step calls it with prediction, data, noise, times, which Pair does not take" in line


def test_a_file_of_others_may_not_name_it(tmp_path: Path) -> None:
    values = toy(tmp_path, own("vae"))
    published._own.clear()
    assert "not named on this command line" in check.problems(values)[0]
