"""Passes of a GAN that are replayed end with the bits of launched ones, and each kind of them has its own graph."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fluxflow_exp.losses.adversarial import Adversarial
from fluxflow_exp.machine import cuda_graphs
from tests.helpers.tape import Tape, play
from tests.helpers.trainers import ALL_ON, GAN_ONLY, PERCEPTUAL, build, updated

UPDATES = 10
GAN = "stage.steps.vae_gan.trainer.adversarial"
BEGINS = [f"{GAN}.start=3", f"{GAN}.r1_interval=2"]
EVERY_LOSS = [*BEGINS, *ALL_ON, *PERCEPTUAL, f"+{GAN}.instance_noise=0.1"]
EVERY_LOSS += ["stage.steps.vae_gan.trainer.equivariance.every=1"]
MICRO = ["hardware.micro_batch.autoencoder=2"]
D, R1 = ("discriminator", False), ("discriminator", True)


def generator(*kinds: str) -> tuple[str, tuple[str, ...]]:
    return "vae", kinds


def other(stage: str, *words: str) -> tuple[str, list[str]]:
    step = f"stage.steps.{stage}"
    gan = [f"{step}.trainer.adversarial.{key}" for key in ("start=3", "r1_interval=2")]
    return stage, [f"{step}.batch_size=8", *gan, *(f"{step}.{word}" for word in words)]


CASES: dict[str, tuple[str, list[str], set[Any]]] = {
    "few losses": ("vae_gan", BEGINS, {generator(), generator("gan"), D, R1}),
    "micro-batches": ("vae_gan", [*BEGINS, *MICRO], {generator(), generator("gan"), D, R1}),
    "every loss": (
        "vae_gan",
        [*EVERY_LOSS, *MICRO],
        {generator("lpips", "equivariance"), generator("gan", "lpips", "equivariance"), D, R1},
    ),
    "LPIPS now and then": (
        "vae_gan",
        [*EVERY_LOSS, "stage.steps.vae_gan.trainer.perceptual.every=2"],
        {generator("gan", "equivariance"), generator("gan", "lpips", "equivariance"), D, R1},
    ),
    "crops": ("vae_gan", [*EVERY_LOSS, "stage.steps.vae_gan.trainer.perceptual.crop=32"], {D, R1}),
    "decoder": (*other("decoder_gan"), {generator(), generator("gan"), D, R1}),
    "GAN alone": (
        "gan_only",
        [*GAN_ONLY, "stage.spade=true", "stage.steps.gan_only.trainer.spade=always"],
        {generator("gan", "spade"), D},
    ),
    "SPADE": (*other("vae_gan_spade"), {generator("spade"), generator("gan", "spade"), D, R1}),
    "SPADE now and then": (*other("vae_gan_spade", "trainer.spade=alternate"), {D, R1}),
}


def begin(folder: Path, step: str, words: list[str], *, replays: bool) -> tuple[Any, Any]:
    stage = "quickstart" if step == "vae_gan" else step
    trainer, batch = build(folder, step, *words, stage=stage)
    if replays:
        trainer.accumulation.replay()
    return trainer, batch


def train(trainer: Any, batch: Any, first: int = 0, last: int = UPDATES) -> list[dict[str, float]]:
    """The numbers of updates `first` to `last` - 1."""
    found = []
    for trainer.update_index in range(first, last):
        found.append(updated(trainer, batch))
    trainer.update_index = last
    return found


def state(trainer: Any) -> list[Tensor]:
    """All that training has changed."""
    moments = [each for player in trainer.players.values() for each in player.optimizer.state_dict()["state"].values()]
    weights = [parameter for player in trainer.players.values() for parameter in player.parameters]
    averages = [tensor for part in trainer.players["vae"].ema.average.values() for tensor in part.values()]
    return [*weights, *averages, *(value for each in moments for value in each.values())]


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> dict[Any, int]:
    """Kind of pass → how often it was replayed. A kind is captured when it is met for the second time."""
    found: dict[Any, int] = {}
    run = cuda_graphs.CudaGraphs.run

    def counted(graphs: Any, pass_: Any, arguments: Any, *, key: Any = None) -> Any:
        result = run(graphs, pass_, arguments, key=key)
        played = [each.replays for shapes, each in graphs.graphs.items() if shapes[0] == key]
        found.update({key: max(played)} if played else {})
        return result

    play(monkeypatch)
    monkeypatch.setattr(cuda_graphs, "WARM_UP", 1)
    monkeypatch.setattr(cuda_graphs.CudaGraphs, "run", counted)
    return found


@pytest.mark.parametrize("case", CASES)
def test_replayed_passes_give_the_bits_of_launched_ones(tmp_path: Path, replayed: dict[Any, int], case: str) -> None:
    step, words, kinds = CASES[case]
    launched, batch = begin(tmp_path / "launched", step, words, replays=False)
    expected = train(launched, batch)
    assert not replayed
    trainer, _ = begin(tmp_path / "replayed", step, words, replays=True)
    assert train(trainer, batch) == expected
    assert all(torch.equal(a, b) for a, b in zip(state(trainer), state(launched), strict=True))
    assert {kind for kind, replays in replayed.items() if replays > 1} == kinds
    held = {key for key, _ in trainer.accumulation.cuda_graphs.graphs}
    assert not {kind for kind in held if kind[0] == "vae" and "gan" not in kind[1]}  # freed when the GAN has begun


@pytest.mark.parametrize("at", [2, 3, 4, 6])
def test_from_a_checkpoint_it_goes_on_with_the_same_bits(tmp_path: Path, replayed: dict[Any, int], at: int) -> None:
    """Before the GAN begins, when it has just begun, and around R1."""
    words = [*EVERY_LOSS, "stage.steps.vae_gan.n_epochs=3"]
    launched, batch = begin(tmp_path / "launched", "vae_gan", words, replays=False)
    expected = train(launched, batch)
    first, _ = begin(tmp_path / "first", "vae_gan", words, replays=True)
    train(first, batch, 0, at)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second, _ = begin(tmp_path / "second", "vae_gan", words, replays=True)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert train(second, batch, at) == expected[at:]
    assert all(torch.equal(a, b) for a, b in zip(state(second), state(launched), strict=True))
    assert replayed


def test_graphs_that_are_forgotten_in_between_change_nothing(tmp_path: Path, replayed: dict[Any, int]) -> None:
    launched, batch = begin(tmp_path / "launched", "vae_gan", EVERY_LOSS, replays=False)
    trainer, _ = begin(tmp_path / "replayed", "vae_gan", EVERY_LOSS, replays=True)
    for first in range(0, UPDATES, 5):
        assert train(trainer, batch, first, first + 5) == train(launched, batch, first, first + 5)
        with trainer.averaged():
            assert not trainer.accumulation.cuda_graphs.graphs
    assert replayed


def test_a_weight_that_moved_in_memory_would_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replayed: dict[Any, int]
) -> None:
    """A tape, as a graph, reads the tensor that was there when it was made."""
    end = Adversarial.end_update

    def moved(gan: Any, **over: Any) -> dict[str, Tensor]:
        gan.adapted = gan.adapted.clone()
        return end(gan, **over)

    launched, batch = begin(tmp_path / "launched", "vae_gan", BEGINS, replays=False)
    expected = train(launched, batch)
    monkeypatch.setattr(Adversarial, "end_update", moved)
    trainer, _ = begin(tmp_path / "replayed", "vae_gan", BEGINS, replays=True)
    assert train(trainer, batch) != expected


def test_where_memory_does_not_suffice_for_graphs_they_go_before_images_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replayed: dict[Any, int], capsys: pytest.CaptureFixture[str]
) -> None:
    launched, batch = begin(tmp_path / "launched", "vae_gan", [*BEGINS, *MICRO], replays=False)
    expected = train(launched, batch)
    trainer, _ = begin(tmp_path / "replayed", "vae_gan", [*BEGINS, *MICRO], replays=True)
    r1 = Adversarial.r1

    def short(*arguments: Any) -> Any:
        if trainer.accumulation.cuda_graphs and trainer.accumulation.cuda_graphs.keyed:
            raise torch.OutOfMemoryError("planted")
        return r1(*arguments)

    monkeypatch.setattr(Adversarial, "r1", short)
    assert train(trainer, batch) == expected
    assert trainer.accumulation.cuda_graphs is None
    assert trainer.accumulation.micro_batch == 2
    said = capsys.readouterr().out
    assert said.count("Out of memory with micro-batch 2 at update 5 of step 'vae_gan' and CUDA graphs: doing it") == 1


def test_what_asks_the_host_cannot_be_recorded() -> None:
    with pytest.raises(AssertionError, match="must not ask"):
        Tape(lambda x: {"x": x * float(x)}, [torch.ones(())], None)
