"""Self-alignment of the flow transformer's blocks: the term, its blocks, and what it trains."""

from pathlib import Path

import pytest
import torch
from torch import nn

from fluxflow_exp.losses.self_alignment import SelfAlignment
from fluxflow_exp.models.flow import FlowProcessor
from tests.helpers.trainers import build, updated
from tests.preflight.conftest import check

ON = "+loss@stage.steps.flow.trainer.self_alignment=self_alignment"
TRAINER = "stage.steps.flow.trainer.self_alignment"


def flow(depth: int) -> FlowProcessor:
    return FlowProcessor(vae_dim=2, width=8, depth=depth, heads=1, text_dim=4)


def test_it_is_one_minus_the_cosine_averaged_over_tokens() -> None:
    early = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [0.0, -1.0]]])
    late = torch.tensor([[[5.0, 0.0], [4.0, 0.0]], [[-1.0, 0.0], [1.0, 1.0]]])
    found = SelfAlignment()(early, late)["self_alignment"]
    torch.testing.assert_close(found, torch.tensor([(0 + 1) / 2, (2 + 1 + 0.5**0.5) / 2]))


def test_the_later_block_is_a_fixed_target() -> None:
    early, late = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 3, 4, requires_grad=True)
    SelfAlignment()(early, late)["self_alignment"].sum().backward()
    assert late.grad is None
    assert early.grad is not None
    assert early.grad.abs().max() > 0


@pytest.mark.parametrize(("depth", "blocks"), [(3, (1, 2)), (4, (1, 2)), (10, (3, 6)), (28, (9, 17))])
def test_its_blocks_are_a_third_and_six_tenths_of_the_depth(depth: int, blocks: tuple[int, int]) -> None:
    assert SelfAlignment().blocks(flow(depth)) == blocks
    assert SelfAlignment(block=1, target=3).blocks(flow(depth)) == (1, 3)


@pytest.mark.parametrize(
    ("depth", "given"), [(1, {}), (2, {}), (4, {"block": 2}), (4, {"target": 5}), (4, {"block": 5})]
)
def test_blocks_that_are_not_there_are_refused(depth: int, given: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"must be two of the {depth} blocks"):
        SelfAlignment(**given).blocks(flow(depth))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "words"),
    [({"weight": 0.0}, "weight must be positive"), ({"block": 2, "target": 2}, "must be after block")],
)
def test_numbers_that_do_not_fit_are_refused(given: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SelfAlignment(**given)  # type: ignore[arg-type]


def test_a_transformer_that_hands_nothing_out_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear does not hand out what its blocks give"):
        SelfAlignment().blocks(nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([ON, f"{TRAINER}.target=5"], f"{TRAINER}: block=1 and target=5 must be two of the 4 blocks"),
        ([ON, "model.flow_processor.depth=2"], f"{TRAINER}: block=1 and target=1 must be two of the 2 blocks"),
        ([ON, f"{TRAINER}.weight=0"], f"{TRAINER}.weight must be positive, not 0"),
        (["+loss@stage.steps.vae.trainer.self_alignment=self_alignment"], "stage.steps.vae.trainer.self_alignment"),
    ],
)
def test_what_cannot_be_aligned_is_said_before_the_first_step(overrides: list[str], expected: str) -> None:
    (found,) = check(*overrides)
    assert expected in found


def test_a_step_trains_with_it_and_logs_it(tmp_path: Path) -> None:
    depth = "model.flow_processor.depth=4"
    plain, batch = build(tmp_path / "plain", "flow", depth)
    trainer, _ = build(tmp_path / "aligned", "flow", depth, ON)
    small, _ = build(tmp_path / "small", "flow", depth, ON, "hardware.micro_batch.flow=2")
    before, found, again = (updated(each, batch) for each in (plain, trainer, small))
    assert found["flow"] == pytest.approx(before["flow"])
    assert 0 < found["self_alignment"] < 2
    assert "self_alignment" not in before
    assert again["self_alignment"] == pytest.approx(found["self_alignment"], rel=1e-5)
    assert not torch.equal(trainer.flow.embed.weight, plain.flow.embed.weight)
    (phase,) = trainer.phases()
    assert phase.replayed
