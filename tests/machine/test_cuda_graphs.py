"""CUDA graphs of a pass: when one is captured, and that it gives the bits of the pass itself."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from fluxflow_exp.losses.terms import Terms
from fluxflow_exp.machine import cuda_graphs
from fluxflow_exp.machine.cuda_graphs import WARM_UP, CudaGraphs
from tests.helpers.trainers import EVERY, build

GPU = ["hardware.device=cuda", "hardware.precision=bf16", "hardware.exact=true"]


class Recorded:
    """In place of a graph where there is no GPU."""

    captured = 0

    def __init__(self, pass_: Any, arguments: Any, pool: Any) -> None:
        Recorded.captured += 1

    def replay(self, arguments: Any) -> Terms:
        return {"replayed": arguments[0]}


def double(x: Tensor) -> Terms:
    return {"passed": 2 * x}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> type[Recorded]:
    monkeypatch.setattr(cuda_graphs, "_Graph", Recorded)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    Recorded.captured = 0
    return Recorded


def test_a_shape_is_captured_once_it_was_met_often_enough(recorded: type[Recorded]) -> None:
    each = CudaGraphs()
    for _ in range(WARM_UP):
        assert list(each.run(double, [torch.ones(2)])) == ["passed"]
    for _ in range(2):
        assert list(each.run(double, [torch.ones(2)])) == ["replayed"]
    assert list(each.run(double, [torch.ones(3)])) == ["passed"]
    assert list(each.run(double, [torch.ones(2, dtype=torch.float64)])) == ["passed"]
    assert recorded.captured == 1


def test_what_was_forgotten_is_captured_anew(recorded: type[Recorded]) -> None:
    each = CudaGraphs()
    for _ in range(WARM_UP + 1):
        each.run(double, [torch.ones(2)])
    each.forget()
    assert list(each.run(double, [torch.ones(2)])) == ["passed"]
    assert recorded.captured == 1


def test_passes_of_other_keys_have_graphs_of_their_own(recorded: type[Recorded]) -> None:
    each = CudaGraphs()
    for _ in range(WARM_UP + 1):
        for key in "ab":
            each.run(double, [torch.ones(2)], key=key)
    assert recorded.captured == 2


def updates(trainer: Any, batch: Any, count: int) -> None:
    for _ in range(count):
        trainer.update(batch)
        trainer.update_index += 1


def trained(folder: Path, step: str, options: list[str]) -> tuple[list[Tensor], Any, Any]:
    trainer, batch = build(folder, step, *GPU, *options)
    trainer.prepare()
    updates(trainer, batch, 12)
    trainer.settle()
    return [p.detach().clone() for player in trainer.players.values() for p in player.parameters], trainer, batch


@pytest.mark.gpu
@pytest.mark.parametrize(("step", "more"), [("flow", []), ("vae", []), ("flow", EVERY)])
@pytest.mark.parametrize(("compiled", "micro_batch"), [(True, 8), (False, 2)])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_replayed_step_ends_with_the_bits_of_one_that_was_launched(
    tmp_path: Path, step: str, more: list[str], compiled: bool, micro_batch: int, optimizer: str
) -> None:
    options = [f"hardware.compile={str(compiled).lower()}", *more, f"optimizer={optimizer}"]
    options += [f"hardware.micro_batch.{part}={micro_batch}" for part in ("flow", "autoencoder")]
    launched, _, _ = trained(tmp_path / "launched", step, [*options, "hardware.cuda_graphs=false"])
    replayed, trainer, batch = trained(tmp_path / "replayed", step, [*options, "hardware.cuda_graphs=true"])
    assert len(trainer.accumulation.cuda_graphs.graphs) >= 1
    assert all(torch.equal(a, b) for a, b in zip(launched, replayed, strict=True))
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        updates(trainer, batch, 2)
    calls = {event.key: event.count for event in seen.key_averages()}
    graphs = trainer.accumulation.replaying and trainer.accumulation.replaying[0].graphs.graphs
    assert bool(graphs) == (optimizer == "muon")
    assert calls["cudaGraphLaunch"] == 2 * (8 // micro_batch + len(graphs))
    assert "cudaStreamSynchronize" not in calls
    with trainer.averaged():
        assert not trainer.accumulation.cuda_graphs.graphs  # their memory is free for what is looked at
        assert not any(each.graphs.graphs for each in trainer.accumulation.replaying)
