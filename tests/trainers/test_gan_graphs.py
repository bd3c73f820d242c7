"""Passes of a GAN that are replayed end with the bits of launched ones, and each kind of them has its own graph."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fluxflow_exp.losses.adversarial import Adversarial
from fluxflow_exp.machine import cuda_graphs
from tests.conftest import toy
from tests.helpers.children import KillDuring, finish
from tests.helpers.outcomes import losses, published
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
    trainer, batch = build(folder, step, f"stage.steps.{step}.n_epochs=5", *words, stage=stage)
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
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[Any]:
    """Kind of pass → how often its graphs were replayed after the pass for which they were captured."""
    found: Counter[Any] = Counter()
    run = cuda_graphs.CudaGraphs.run

    def counting(graphs: Any, pass_: Any, arguments: Any, *, key: Any = None) -> Any:
        found.update([key] * ((key, tuple((each.shape, each.dtype) for each in arguments)) in graphs.graphs))
        return run(graphs, pass_, arguments, key=key)

    monkeypatch.setattr(cuda_graphs.CudaGraphs, "run", counting)
    return found


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch, counted: Counter[Any]) -> Counter[Any]:
    """`counted`, of tapes, which are made when a kind is met for the second time."""
    play(monkeypatch)
    monkeypatch.setattr(cuda_graphs, "WARM_UP", 1)
    return counted


@pytest.mark.parametrize("case", CASES)
def test_replayed_passes_give_the_bits_of_launched_ones(tmp_path: Path, replayed: Counter[Any], case: str) -> None:
    step, words, kinds = CASES[case]
    launched, batch = begin(tmp_path / "launched", step, words, replays=False)
    expected = train(launched, batch)
    assert not replayed
    trainer, _ = begin(tmp_path / "replayed", step, words, replays=True)
    assert train(trainer, batch) == expected
    assert all(torch.equal(a, b) for a, b in zip(state(trainer), state(launched), strict=True))
    assert set(replayed) == kinds
    held = {key for key, _ in trainer.accumulation.cuda_graphs.graphs}
    assert not {kind for kind in held if kind[0] == "vae" and "gan" not in kind[1]}  # freed when the GAN has begun


@pytest.mark.parametrize("at", [2, 3, 4, 6])
def test_from_a_checkpoint_it_goes_on_with_the_same_bits(tmp_path: Path, replayed: Counter[Any], at: int) -> None:
    """Before the GAN begins, when it has just begun, and around R1."""
    launched, batch = begin(tmp_path / "launched", "vae_gan", EVERY_LOSS, replays=False)
    expected = train(launched, batch)
    first, _ = begin(tmp_path / "first", "vae_gan", EVERY_LOSS, replays=True)
    train(first, batch, 0, at)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second, _ = begin(tmp_path / "second", "vae_gan", EVERY_LOSS, replays=True)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert train(second, batch, at) == expected[at:]
    assert all(torch.equal(a, b) for a, b in zip(state(second), state(launched), strict=True))
    assert replayed


def test_graphs_that_are_forgotten_in_between_change_nothing(tmp_path: Path, replayed: Counter[Any]) -> None:
    launched, batch = begin(tmp_path / "launched", "vae_gan", EVERY_LOSS, replays=False)
    trainer, _ = begin(tmp_path / "replayed", "vae_gan", EVERY_LOSS, replays=True)
    for first in range(0, UPDATES, 5):
        assert train(trainer, batch, first, first + 5) == train(launched, batch, first, first + 5)
        with trainer.averaged():
            assert not trainer.accumulation.cuda_graphs.graphs
    assert replayed


def test_a_weight_that_moved_in_memory_would_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replayed: Counter[Any]
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


@pytest.mark.parametrize(("what", "update"), [("an R1 beside them", 5), ("the first of them", 1)])
def test_where_memory_does_not_suffice_for_graphs_they_go_before_images_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    replayed: Counter[Any],
    capsys: pytest.CaptureFixture[str],
    what: str,
    update: int,
) -> None:
    launched, batch = begin(tmp_path / "launched", "vae_gan", [*BEGINS, *MICRO], replays=False)
    expected = train(launched, batch)
    trainer, _ = begin(tmp_path / "replayed", "vae_gan", [*BEGINS, *MICRO], replays=True)

    def short(pass_: Any) -> Any:
        def planted(*arguments: Any) -> Any:
            graphs = trainer.accumulation.cuda_graphs
            if graphs and (graphs.keyed if what == "an R1 beside them" else Tape.recording):
                raise torch.OutOfMemoryError("planted")
            return pass_(*arguments)

        return planted

    if what == "an R1 beside them":
        monkeypatch.setattr(Adversarial, "r1", short(Adversarial.r1))
    else:
        monkeypatch.setattr(type(trainer), "_generator", short(type(trainer)._generator))
    assert train(trainer, batch) == expected
    assert trainer.accumulation.cuda_graphs is None
    assert trainer.accumulation.micro_batch == 2
    said = capsys.readouterr().out
    where = f"Out of memory with micro-batch 2 at update {update} of step 'vae_gan' and CUDA graphs: doing it"
    assert said.count(where) == 1


def test_what_asks_the_host_cannot_be_recorded() -> None:
    with pytest.raises(AssertionError, match="must not ask"):
        Tape(lambda x: {"x": x * float(x)}, [torch.ones(())], None)


GPU = ["hardware.device=cuda", "hardware.precision=bf16", "hardware.exact=true"]
LONG = 18  # updates: each kind of pass is met five times


def on_a_gpu(step: str, words: list[str], *, compiled: bool, graphs: bool) -> list[str]:
    later = [] if step == "gan_only" else [f"stage.steps.{step}.trainer.adversarial.start=5"]
    how = [f"hardware.{key}={str(yes).lower()}" for key, yes in (("compile", compiled), ("cuda_graphs", graphs))]
    return [*words, *later, *GPU, *how]


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_on_a_gpu_replayed_passes_give_the_bits_of_launched_ones(
    tmp_path: Path, counted: Counter[Any], case: str, compiled: bool
) -> None:
    step, given, kinds = CASES[case]
    found = []
    for graphs in (False, True):
        words = on_a_gpu(step, given, compiled=compiled, graphs=graphs)
        trainer, batch = begin(tmp_path / str(graphs), step, words, replays=False)
        found.append((train(trainer, batch, 0, LONG), state(trainer)))
        assert bool(trainer.accumulation.cuda_graphs) == graphs
    (expected, launched), (numbers, replayed) = found
    assert set(counted) == kinds
    assert numbers == expected
    assert all(torch.equal(a, b) for a, b in zip(launched, replayed, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("at", [4, 5, 6, 9, 14])
def test_on_a_gpu_it_goes_on_from_a_checkpoint_with_the_same_bits(
    tmp_path: Path, counted: Counter[Any], at: int
) -> None:
    words = {yes: on_a_gpu("vae_gan", EVERY_LOSS, compiled=False, graphs=yes) for yes in (False, True)}
    launched, batch = begin(tmp_path / "launched", "vae_gan", words[False], replays=False)
    expected = train(launched, batch, 0, LONG)
    first, _ = begin(tmp_path / "first", "vae_gan", words[True], replays=False)
    train(first, batch, 0, at)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second, _ = begin(tmp_path / "second", "vae_gan", words[True], replays=False)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert train(second, batch, at, LONG) == expected[at:]
    assert all(torch.equal(a, b) for a, b in zip(state(second), state(launched), strict=True))
    assert counted


def whole_run(folder: Path, device: list[str], graphs: bool, *kills: int) -> Path:
    """A run of `vae_gan` alone, killed in the updates `kills` of one process after another."""
    alone = ["~stage.steps.vae", "~stage.steps.flow", "stage.steps.vae_gan.n_epochs=5", "checkpoint.every_updates=2"]
    often = [f"{GAN}.start=5", f"{GAN}.r1_interval=2", "evaluation.every_epochs=null", "samples.every_epochs=null"]
    values = toy(folder, *alone, *EVERY_LOSS, *often, *device, f"hardware.cuda_graphs={str(graphs).lower()}")
    for count in kills:
        kill = KillDuring("fluxflow_exp.trainers.base:Trainer", "update", count)
        assert finish(values, folder / "log", kill) == -9, (folder / "log").read_text()
    assert finish(values, folder / "log") == 0, (folder / "log").read_text()
    return folder / "quickstart"


@pytest.mark.gpu
def test_on_a_gpu_a_run_that_is_killed_ends_with_the_bytes_of_a_launched_one(tmp_path: Path) -> None:
    """Of 20 updates; the GAN begins at the sixth, and every other one has R1."""
    device = [*GPU, "hardware.compile=false"]
    launched = whole_run(tmp_path / "launched", device, False)
    replayed = whole_run(tmp_path / "replayed", device, True)
    killed = whole_run(tmp_path / "killed", device, True, 5, 4, 9)
    assert published(launched) == published(replayed) == published(killed)
    assert losses(launched) == losses(replayed) == losses(killed)
