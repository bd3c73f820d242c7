"""Buckets on GPUs: exchanges wait for an event within a graph that is replayed, and for no more of it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from fluxflow_exp.machine import gradient_buckets
from fluxflow_exp.machine.gradient_buckets import GradientBuckets
from tests.conftest import TOY
from tests.helpers.outcomes import losses, published
from tests.helpers.trainers import EVERY, build

pytestmark = pytest.mark.gpu

GPU = ["hardware.device=cuda", "hardware.precision=bf16", "hardware.exact=true"]
LONG = 100_000_000  # cycles: some 50 ms


@pytest.fixture
def group() -> Iterator[None]:
    """This process as the only rank of a group of NCCL."""
    device = torch.device("cuda", torch.cuda.current_device())
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1, device_id=device)
    yield
    dist.destroy_process_group()


def test_what_waits_for_an_event_in_a_graph_sees_this_replay_and_does_not_wait_for_its_end() -> None:
    value, seen = torch.zeros((), device="cuda"), torch.zeros((), device="cuda")
    event, side = torch.cuda.Event(external=True), torch.cuda.Stream()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        torch.cuda._sleep(LONG)
        value.add_(1)
        event.record()
        torch.cuda._sleep(3 * LONG)
    for count in range(1, 6):
        graph.replay()
        side.wait_event(event)
        with torch.cuda.stream(side):
            seen.copy_(value)
        side.synchronize()
        assert float(seen) == count  # not the value of the replay before
        assert not torch.cuda.current_stream().query()  # the graph runs on
        torch.cuda.synchronize()


@pytest.mark.usefixtures("group")
def test_exchanges_of_a_replay_begin_before_its_end_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient_buckets, "SIZE", 4)
    weights = [torch.nn.Parameter(torch.full((64,), 1.0, device="cuda")) for _ in range(3)]
    buckets = GradientBuckets(reversed(weights))

    def slow(gradient: Tensor) -> Tensor:
        torch.cuda._sleep(LONG)
        return gradient

    def pass_() -> None:
        found = torch.ones((), device="cuda")
        for weight in weights:
            found = found * weight.square().sum()
        with buckets.filled(last=True, keep=True):
            found.backward()

    for weight in weights:
        weight.register_hook(slow)
    for _ in range(3):
        pass_()
        buckets.wait(keep=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        pass_()
    assert buckets.begun == 0  # nothing was exchanged in a capture
    torch._foreach_zero_([weight.grad for weight in weights])  # type: ignore[misc]
    torch.cuda.synchronize()
    ends = [torch.cuda.Event(enable_timing=True) for _ in range(4)]
    original = dist.all_reduce

    def timed(tensor: Tensor, *, async_op: bool) -> Any:
        work = original(tensor, async_op=async_op)
        ends[buckets.begun].record()  # on the stream that waits for the bucket
        return work

    monkeypatch.setattr(dist, "all_reduce", timed)
    begin = torch.cuda.Event(enable_timing=True)
    begin.record()
    graph.replay()
    ends[3].record()
    buckets.wait(keep=True)
    torch.cuda.synchronize()
    times = [begin.elapsed_time(end) for end in ends]
    assert times[0] < 0.5 * times[3]  # the first bucket of three has the third of the pass
    assert times[0] < times[1] < times[2] <= times[3] * 1.05
    for weight in weights:
        torch.testing.assert_close(weight.grad, torch.full_like(weight, 2 * 64.0**2))


def trained(folder: Path, step: str, options: list[str], *, exchanges: bool) -> tuple[list[Tensor], Any, Any]:
    trainer, batch = build(folder, step, *GPU, *options)
    trainer.accumulation.exchanges = exchanges
    trainer.prepare()
    updates(trainer, batch, 12)
    trainer.settle()
    return [p.detach().clone() for player in trainer.players.values() for p in player.parameters], trainer, batch


def updates(trainer: Any, batch: Any, count: int) -> None:
    for _ in range(count):
        trainer.update(batch)
        trainer.update_index += 1


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize(("step", "more"), [("flow", []), ("vae", []), ("flow", EVERY), ("vae_gan", [])])
@pytest.mark.parametrize(("compiled", "micro_batch"), [(True, 8), (False, 2)])
def test_a_rank_that_exchanges_ends_with_the_bits_of_one_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, more: list[str], compiled: bool, micro_batch: int
) -> None:
    """Its group has no other rank, so that each sum is what it was; graphs, NCCL and its streams are real."""
    monkeypatch.setattr(gradient_buckets, "SIZE", 2**12)
    options = [f"hardware.compile={str(compiled).lower()}", *more]
    options += [f"hardware.micro_batch.{part}={micro_batch}" for part in ("flow", "autoencoder")]
    options += ["stage.steps.vae_gan.trainer.adversarial.start=0"]
    alone, _, _ = trained(tmp_path / "alone", step, [*options, "hardware.cuda_graphs=false"], exchanges=False)
    for graphs in ("false", "true"):
        words = [*options, f"hardware.cuda_graphs={graphs}"]
        weights, trainer, batch = trained(tmp_path / graphs, step, words, exchanges=True)
        assert all(torch.equal(a, b) for a, b in zip(alone, weights, strict=True)), f"cuda_graphs={graphs}"
        buckets = list(trainer.accumulation.buckets.values())
        assert all(len(each.buckets) > 3 for each in buckets)
    assert len(trainer.accumulation.cuda_graphs.graphs) >= 1
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        updates(trainer, batch, 2)
    calls = {event.key: event.count for event in seen.key_averages()}
    assert calls["cudaGraphLaunch"] >= 2 * (8 // micro_batch)
    assert calls["c10d::allreduce_"] == 2 * sum(len(each.buckets) for each in buckets)
    assert "cudaStreamSynchronize" not in calls


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("stage", ["vae", "quickstart"])
def test_two_gpus_that_replay_end_with_the_bits_of_two_that_launch(tmp_path: Path, stage: str) -> None:
    steps = ["vae"] if stage == "vae" else ["vae", "vae_gan", "flow"]
    toy = [word for word in TOY if not word.startswith("hardware")]
    toy += [f"stage.steps.{name}.{key}" for name in steps for key in ("n_epochs=4", "batch_size=8")]
    toy.append(f"hardware.compile={str(stage == 'vae').lower()}")  # three steps would compile for minutes
    common = [sys.executable, "-m", "fluxflow_exp", f"stage={stage}", *toy, "hardware=auto", *GPU]
    runs = {
        "one": ["hardware.cuda_graphs=false"],
        "launched": ["hardware.devices=2", "hardware.cuda_graphs=false"],
        "replayed": ["hardware.devices=2", "hardware.cuda_graphs=true"],
    }
    for name, words in runs.items():
        command = [*common, *words, f"output_root={tmp_path / name}"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "passes are replayed as CUDA graphs" in done.stdout
    one, launched, replayed = (tmp_path / name / stage for name in runs)
    assert published(launched) == published(replayed)
    assert losses(launched) == losses(replayed)
    assert losses(launched)[:4] == pytest.approx(losses(one)[:4], rel=5e-2, abs=5e-2)  # bf16; the order of sums
