"""Representation alignment: the term, its block and its end, and what is refused before training."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fluxflow_exp.losses.repa import Repa
from fluxflow_exp.models.flow import FlowProcessor
from tests.helpers.networks import small_timm
from tests.preflight.conftest import check

ON = "+loss@stage.steps.flow.trainer.repa=repa"
TRAINER = "stage.steps.flow.trainer.repa"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_timm(tmp_path_factory.mktemp("teacher"))


def flow(depth: int) -> FlowProcessor:
    return FlowProcessor(vae_dim=2, width=8, depth=depth, heads=1, text_dim=4)


def test_it_is_one_minus_the_cosine_in_the_same_places(folder: Path) -> None:
    # A picture of one row and two columns, with features (1, 0) on the left and (0, 1) on the right.
    features = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]]).bfloat16()
    projected = torch.tensor([[[2.0, 0.0], [1.0, 1.0]]], requires_grad=True)
    found = Repa(teacher_path=str(folder))(projected, features)["repa"]
    torch.testing.assert_close(found, torch.tensor([(0 + 1 - 0.5**0.5) / 2]))
    found.sum().backward()
    # The cosine's gradient is (target - cosine · direction) / length: nothing on the left, (-1, 1) / 4 on the right.
    expected = -torch.tensor([[[0.0, 0.0], [-(0.5**0.5) / 2, 0.5**0.5 / 2]]]) / 2
    torch.testing.assert_close(projected.grad, expected)


@pytest.mark.parametrize(("depth", "block"), [(1, 1), (3, 1), (12, 4), (28, 9)])
def test_its_block_is_a_third_of_the_depth(folder: Path, depth: int, block: int) -> None:
    assert Repa(teacher_path=str(folder)).blocks(flow(depth)) == (block,)
    assert Repa(teacher_path=str(folder), block=depth).blocks(flow(depth)) == (depth,)


def test_it_is_on_until_a_share_of_the_updates_is_done(folder: Path) -> None:
    half, always = Repa(teacher_path=str(folder), stop=0.5), Repa(teacher_path=str(folder))
    assert [half.is_on(update, 5) for update in range(5)] == [True, True, True, False, False]
    assert all(always.is_on(update, 5) for update in range(5))


def test_its_projector_is_an_mlp_of_three_layers(folder: Path) -> None:
    found = Repa(teacher_path=str(folder), width=6).projector(4, 10)
    assert [tuple(each.weight.shape) for each in found if isinstance(each, nn.Linear)] == [(6, 4), (6, 6), (10, 6)]


def test_a_transformer_that_hands_nothing_out_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="Linear does not hand out what its blocks give"):
        Repa(teacher_path=str(folder)).blocks(nn.Linear(1, 1))


def test_a_transformer_that_does_not_say_how_wide_it_is_is_refused(folder: Path) -> None:
    class Own(nn.Module):
        def forward(self, taps: object = ()) -> None: ...

    with pytest.raises(ValueError, match="Own has no width, by which its tokens are projected"):
        Repa(teacher_path=str(folder)).blocks(Own())


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([f"{TRAINER}.block=5"], f"{TRAINER}: block=5 must be one of the 4 blocks"),
        ([f"{TRAINER}.weight=0"], f"{TRAINER}.weight must be positive, not 0"),
        ([f"{TRAINER}.stop=1"], f"{TRAINER}.stop must be in (0, 1) or null, not 1"),
        ([f"{TRAINER}.teacher_path=nowhere"], f"{TRAINER}: teacher_path: there is no folder nowhere"),
    ],
)
def test_what_cannot_be_aligned_is_said_before_the_first_step(
    folder: Path, overrides: list[str], expected: str
) -> None:
    (found,) = check(ON, f"{TRAINER}.teacher_path={folder}", *overrides)
    assert expected in found


def test_a_folder_that_is_not_given_and_another_step_are_refused(folder: Path) -> None:
    assert check(ON) == [f"{TRAINER}.teacher_path is not set: give {TRAINER}.teacher_path=…"]
    vae = "stage.steps.vae.trainer.repa"
    (found,) = check(f"+loss@{vae}=repa", f"{vae}.teacher_path={folder}")
    assert vae in found


def test_weights_that_do_not_fit_are_found_before_the_first_step(tmp_path: Path) -> None:
    folder = small_timm(tmp_path)
    (folder / "model.safetensors").write_bytes(b"no weights")
    (found,) = check(ON, f"{TRAINER}.teacher_path={folder}")
    assert f"{TRAINER}: {folder} gives no patch features" in found


@pytest.mark.parametrize(("judged", "refused"), [("fd", True), ("psnr", False)])
def test_a_teacher_does_not_judge_its_own_run(tmp_path: Path, folder: Path, judged: str, refused: bool) -> None:
    copy = small_timm(tmp_path / "copy")  # the same model elsewhere
    given = [ON, f"{TRAINER}.teacher_path={folder}", f"evaluation.metrics=[{judged}]"]
    found: Any = check(*given, f"evaluation.features={copy}")
    assert ("a run is not judged by what it was taught with" in "".join(found)) == refused
    other = small_timm(tmp_path / "other", seed=1)
    assert check(*given, f"evaluation.features={other}") == []
