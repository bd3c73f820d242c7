"""Numbers of updates that stay on the device until they are read: what is not finite, and who waits for whom."""

import collections
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode

from fluxflow_exp import pipeline
from fluxflow_exp.monitor.finite import NonFiniteError
from fluxflow_exp.run.metric_log import read_rows
from fluxflow_exp.trainers.base import Trainer
from tests.conftest import toy
from tests.helpers.trainers import ALL_ON, GAN_ONLY, PERCEPTUAL, START, build

# step → the stage that has it, and overrides
STAGES: dict[str, tuple[str, list[str]]] = {
    "vae": ("quickstart", []),
    "vae_gan": ("quickstart", [*ALL_ON, *PERCEPTUAL, *START, "stage.steps.vae_gan.trainer.adversarial.r1_interval=4"]),
    "vae_gan_spade": (
        "vae_gan_spade",
        ["stage.steps.vae_gan_spade.batch_size=8", "stage.steps.vae_gan_spade.trainer.adversarial.start=0"],
    ),
    "gan_only": ("gan_only", GAN_ONLY),
    "flow": ("quickstart", ["stage.steps.flow.trainer.objective.time_distribution=cosine"]),
}
WAITS = {  # of the host for the device, as the profiler names them
    "aten::item",
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "cudaStreamSynchronize",
    "cudaDeviceSynchronize",
    "cudaEventSynchronize",
    "cudaMemcpy",
}
ONE_STEP = ["~stage.steps.vae_gan", "~stage.steps.flow"]


def deferring(tmp_path: Path, step: str, *overrides: str) -> tuple[Any, Any]:
    """A trainer that reads its numbers when they are logged, as on a GPU, and a batch."""
    stage, more = STAGES[step]
    trainer, batch = build(tmp_path, step, *more, *overrides, stage=stage)
    assert all(player.can_leave_out for player in trainer.players.values())
    trainer.prompt = False
    return trainer, batch


def state(trainer: Any, *players: str) -> list[torch.Tensor]:
    """Copies of the players' weights and of their optimizers' numbers."""
    chosen = [trainer.players[name] for name in players or trainer.players]
    weights = [p for player in chosen for p in player.parameters]
    moments = [v for player in chosen for s in player.optimizer.state.values() for v in s.values()]
    return [tensor.detach().clone() for tensor in weights + moments]


def spoil(trainer: Any, term: str, *, update: int, rows: tuple[int, ...], factor: float = float("nan")) -> None:
    """Multiply a loss of some samples of one update."""
    plain = trainer.phases

    def spoiled(loss: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any) -> Any:
            terms, weights = loss(*arguments)
            if trainer.update_index == update and term in terms:
                factors = torch.ones(len(terms[term]))
                factors[list(rows)] = factor
                terms[term] = terms[term] * factors
            return terms, weights

        return changed

    trainer.phases = lambda: [replace(phase, loss=spoiled(phase.loss)) for phase in plain()]


def train(trainer: Any, batch: Any, updates: int) -> list[list[torch.Tensor]]:
    """The state before each update, and after the last."""
    states = [state(trainer)]
    for _ in range(updates):
        trainer.update(batch)
        trainer.update_index += 1
        states.append(state(trainer))
    return states


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(("step", "term"), [("vae", "l1"), ("vae_gan", "g"), ("flow", "flow")])
def test_what_is_not_finite_reaches_no_weight_and_is_named_when_it_is_read(
    tmp_path: Path, step: str, term: str
) -> None:
    trainer, batch = deferring(tmp_path, step)
    spoil(trainer, term, update=2, rows=(1, 6))
    states = train(trainer, batch, 5)
    assert not same(states[1], states[2])
    assert same(states[2], states[5])
    where = f"the loss '{term}' is not finite at update 3 of step '{step}'"
    with pytest.raises(NonFiniteError, match=f"{where}; samples: {batch.ids[1]}, {batch.ids[6]}\\."):
        trainer.settle()


def test_a_player_whose_turn_came_before_keeps_its_update(tmp_path: Path) -> None:
    trainer, batch = deferring(tmp_path, "vae_gan")
    spoil(trainer, "d", update=1, rows=(0,))
    train(trainer, batch, 1)
    before = {name: state(trainer, name) for name in trainer.players}
    trainer.update(batch)
    assert not same(before["vae"], state(trainer, "vae"))
    assert same(before["discriminator"], state(trainer, "discriminator"))
    with pytest.raises(NonFiniteError, match="the loss 'd' is not finite at update 2"):
        trainer.settle()


def test_a_gradient_that_overflows_reaches_no_weight(tmp_path: Path) -> None:
    trainer, batch = deferring(tmp_path, "vae")
    last = trainer.players["vae"].parameters[-1]
    train(trainer, batch, 1)
    before = state(trainer)
    last.requires_grad_().register_hook(
        lambda gradient: gradient * float("inf") if trainer.update_index == 1 else gradient
    )
    states = train(trainer, batch, 3)
    assert same(before, states[-1])
    with pytest.raises(NonFiniteError, match="the gradient 'vae_norm' is not finite at update 2 of step 'vae'"):
        trainer.settle()


def test_a_run_stops_at_the_next_row_and_saves_nothing(tmp_path: Path) -> None:
    trainer, _ = deferring(tmp_path, "vae", "log_every=4", "checkpoint.every_updates=3")
    spoil(trainer, "kl", update=1, rows=(0,))
    with pytest.raises(NonFiniteError, match="the loss 'kl' is not finite at update 2"):
        trainer.fit()
    assert trainer.update_index == 3  # where a checkpoint is due
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.parametrize("step", ["vae", "vae_gan", "flow"])
def test_the_numbers_and_weights_are_those_of_the_prompt_mode(tmp_path: Path, step: str) -> None:
    results = []
    for prompt in (True, False):
        trainer, batch = deferring(tmp_path, step)
        trainer.prompt = prompt
        states = train(trainer, batch, 4)
        results.append((trainer.metric_buffer.take(), states[-1]))
    (first, a), (second, b) = results
    assert len(first) == 4
    assert first == second
    assert same(a, b)


def test_a_run_writes_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit, rows = Trainer.fit, []
    for prompt in (True, False):

        def with_mode(trainer: Any, prompt: bool = prompt) -> Any:
            trainer.prompt = prompt
            return fit(trainer)

        monkeypatch.setattr(Trainer, "fit", with_mode)
        pipeline.run(toy(tmp_path, *ONE_STEP, f"name={prompt}"))
        written = read_rows(tmp_path / str(prompt) / "graph" / "training_metrics_vae.jsonl")
        rows.append([{k: v for k, v in row.items() if k not in ("timestamp", "extras")} for row in written])
    assert len(rows[0]) > 3
    assert rows[0] == rows[1]


class Reads(TorchDispatchMode):
    """Counts operators that hand a number of a tensor to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operator.name().partition(".")[0]
        if name in WAITS:
            self.counts[name] += 1
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize("step", list(STAGES))
def test_an_update_reads_no_number(tmp_path: Path, step: str) -> None:
    trainer, batch = deferring(tmp_path, step)
    with Reads() as reads:
        train(trainer, batch, 3)
        assert not reads.counts
        assert trainer.metric_buffer.bad.item() == 0
    assert reads.counts == {"aten::_local_scalar_dense": 1}


@pytest.mark.gpu
@pytest.mark.parametrize("step", list(STAGES))
def test_the_host_does_not_wait_for_a_gpu_between_rows(tmp_path: Path, step: str) -> None:
    machine = ["hardware.device=cuda", "hardware.precision=bf16", "hardware.exact=false", "hardware.compile=false"]
    trainer, _ = deferring(tmp_path, step, *machine)
    batches = trainer.batches(0, 13)
    for _ in range(3):
        advance(trainer, next(batches))
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        with record_function("ten updates"):
            for batch in batches:
                advance(trainer, batch)
        with record_function("reading"):
            trainer.settle()
    assert trainer.update_index == 13
    assert waits(seen.events(), "ten updates") == {}
    assert waits(seen.events(), "reading")


def advance(trainer: Any, batch: Any) -> None:
    trainer.update(batch)
    trainer.update_index += 1


def waits(events: list[FunctionEvent], where: str) -> dict[str, int]:
    """The waits of the host within a recorded range."""
    (span,) = (e.time_range for e in events if e.name == where and e.device_type == DeviceType.CPU)
    inside = (e.name for e in events if span.start <= e.time_range.start <= span.end)
    return dict(collections.Counter(name for name in inside if name in WAITS))
