"""Several ranks see what one would, agree on what they do, and end together.

Covers machine/sharding as well.
"""

import hashlib
import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fluxflow_exp.errors import UserError
from fluxflow_exp.machine import cuda_graphs, gradient_buckets
from fluxflow_exp.machine import ranks as distributed
from fluxflow_exp.machine.ranks import Ranks
from fluxflow_exp.trainers.autoencoder import AutoencoderTrainer
from fluxflow_exp.trainers.base import Trainer
from fluxflow_exp.trainers.flow import FlowTrainer
from fluxflow_exp.trainers.phase import Micro
from fluxflow_exp.trainers.updates import Updates
from tests.conftest import toy
from tests.helpers.children import Fault, StopAfter, finish, finish_ranks, start_ranks
from tests.helpers.outcomes import assert_same, losses, published
from tests.helpers.tape import Tape

# What is logged by one rank and by several differs by the order of sums. Measured over these 24 updates: not at all in
# the first row, at most 6e-4 later (a gradient norm of the discriminator).
TOLERANCE = 2e-3


class Record:
    """Each rank writes down what each row of a global batch got: its sample, and the digests of its draws."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self) -> None:
        path = self.path.with_name(f"{self.path.name}.{os.environ.get('RANK', '0')}")
        begin = Trainer.update

        def update(trainer: Any, batch: Any) -> Any:
            trainer.batch_ids = batch.ids
            return begin(trainer, batch)

        def note(trainer: Any, micro: Micro, names: tuple[str, ...]) -> None:
            first = trainer.ranks.share(trainer.length.batch_size).start
            for row in range(micro.rows.start, micro.rows.stop):
                draws = {name: _digest(getattr(trainer, name)[row]) for name in names}
                entry = [trainer.setup.name, trainer.update_index, row, trainer.batch_ids[row - first], draws]
                with path.open("a") as file:
                    file.write(json.dumps(entry) + "\n")

        def wrap(kind: Any, name: str, names: tuple[str, ...]) -> None:
            original = getattr(kind, name)

            def wrapped(trainer: Any, micro: Micro) -> Any:
                note(trainer, micro, names)
                return original(trainer, micro)

            setattr(kind, name, wrapped)

        Trainer.update = update  # type: ignore[method-assign]
        wrap(AutoencoderTrainer, "_arguments", ("posterior_noise", "crop_places"))
        wrap(FlowTrainer, "_arguments", ("posterior_noise", "flow_noise", "times", "dropped"))

    def entries(self) -> list[Any]:
        """What all ranks wrote, in order; what was repeated after an interruption stands once."""
        lines = [
            line for path in self.path.parent.glob(f"{self.path.name}.*") for line in path.read_text().splitlines()
        ]
        return sorted(map(json.loads, set(lines)), key=lambda entry: json.dumps(entry[:3]))


def many_buckets() -> None:
    gradient_buckets.SIZE = 2**12


class PlayedGraphs:
    """Passes are captured and replayed as on GPUs, by a tape; nothing may be exchanged while it is recorded."""

    def __call__(self) -> None:
        prepare, replay = Updates.__init__, Tape.replay

        def replayed(tape: Any, arguments: Any) -> Any:
            print(f"replay {tape.replays} of {', '.join(tape.terms)}")
            return replay(tape, arguments)

        def prepared(trainer: Any, *arguments: Any) -> None:
            prepare(trainer, *arguments)
            trainer.accumulation.replay()

        Updates.__init__ = prepared  # type: ignore[method-assign]
        gradient_buckets._is_capturing = lambda: Tape.recording
        gradient_buckets._record = lambda bucket: print("recorded")
        Tape.replay = replayed  # type: ignore[method-assign]
        cuda_graphs._Graph = Tape  # type: ignore[assignment, misc]
        cuda_graphs.WARM_UP = 1
        torch.cuda.graph_pool_handle = lambda: (0, 1)  # type: ignore[assignment]


def _digest(value: Any) -> str:
    data = value.numpy().tobytes() if isinstance(value, Tensor) else repr(value).encode()
    return hashlib.sha256(data).hexdigest()[:12]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """One rank's run folder, and what its rows got."""
    root = tmp_path_factory.mktemp("alone")
    record = Record(root / "seen")
    assert finish(toy(root), root / "log", record) == 0, (root / "log").read_text()
    entries = record.entries()
    assert len(entries) == 24 * 8  # every row of every update
    return root / "quickstart", entries


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_global_batch_and_its_draws_do_not_depend_on_the_ranks(
    tmp_path: Path, alone: tuple[Path, list[Any]], count: int
) -> None:
    record = Record(tmp_path / "seen")
    values = toy(tmp_path, f"hardware.num_workers={int(count == 2)}")
    codes = finish_ranks(values, tmp_path / "log", count, record, many_buckets)
    said = (tmp_path / "log.0").read_text()
    assert codes == [0] * count, said
    assert re.search(
        rf"Step flow: {count} ranks sum the gradients of flow and text_encoder in \d\d+ buckets while", said
    )
    assert record.entries() == alone[1]
    assert losses(tmp_path / "quickstart") == pytest.approx(losses(alone[0]), rel=TOLERANCE, abs=TOLERANCE)
    written = sorted(p.name for p in (tmp_path / "quickstart" / "samples").iterdir())
    assert written == sorted(p.name for p in (alone[0] / "samples").iterdir())


@pytest.mark.slow
def test_ranks_that_replay_end_with_the_bits_of_those_that_launch(tmp_path: Path) -> None:
    gan = [f"stage.steps.vae_gan.trainer.adversarial.{key}" for key in ("start=3", "r1_interval=2")]
    lecam = "+loss@stage.steps.vae_gan.trainer.lecam=lecam"
    lengths = [f"stage.steps.{step}.n_epochs=3" for step in ("vae", "vae_gan")]
    blind = [f"{each}.every_epochs=null" for each in ("evaluation", "samples")]  # looking forgets graphs
    for name, faults in (("launched", []), ("replayed", [PlayedGraphs()])):
        values = toy(tmp_path / name, "hardware.micro_batch.flow=2", *gan, lecam, *lengths, *blind)
        codes = finish_ranks(values, tmp_path / f"{name}.log", 2, many_buckets, *faults)
        assert codes == [0, 0], (tmp_path / f"{name}.log.0").read_text()
    first, second = (tmp_path / name / "quickstart" for name in ("launched", "replayed"))
    assert published(first) == published(second)
    assert losses(first) == losses(second)
    said = (tmp_path / "replayed.log.0").read_text()
    assert said.count("recorded") > 50
    assert "replay 2 of d, lecam, lecam_seen, r1" in said
    assert "buckets while the backward pass runs; passes are replayed as CUDA graphs" in said


@pytest.mark.slow
def test_two_ranks_then_one_then_two_see_the_same(tmp_path: Path, alone: tuple[Path, list[Any]]) -> None:
    record, log = Record(tmp_path / "seen"), tmp_path / "log"
    for count, update in ((2, 3), (1, 5), (2, None)):
        values = toy(tmp_path, f"hardware.devices={count}", "checkpoint.every_updates=1", "log_every=1")
        if update is None:
            assert finish_ranks(values, log, count, record) == [0, 0], (tmp_path / "log.0").read_text()
        else:
            stop = StopAfter(update)
            assert finish_ranks(values, log, count, record, stop) == [128 + signal.SIGTERM] * count
    assert record.entries() == alone[1]
    assert "restart 2" in (tmp_path / "log.0").read_text()


@pytest.mark.slow
def test_as_many_ranks_as_before_end_with_the_same_bits_and_pictures(tmp_path: Path) -> None:
    chosen = ["checkpoint.every_updates=1", "evaluation.images=7", "evaluation.prompts=5", "samples.count=3"]
    folders = tmp_path / "undisturbed", tmp_path / "stopped"
    assert finish_ranks(toy(folders[0], *chosen), tmp_path / "log", 2) == [0, 0], (tmp_path / "log.0").read_text()
    for update in (3, 14):
        codes = finish_ranks(toy(folders[1], *chosen), tmp_path / "again", 2, StopAfter(update))
        assert codes == [143, 143], (tmp_path / "again.0").read_text()
    assert finish_ranks(toy(folders[1], *chosen), tmp_path / "again", 2) == [0, 0], (tmp_path / "again.0").read_text()
    runs = [folder / "quickstart" for folder in folders]
    assert_same(*runs)
    drawn = [{path.name: path.read_bytes() for path in (run / "samples").iterdir()} for run in runs]
    assert drawn[0] == drawn[1]


def _fail_looking_on_rank_1() -> None:
    original = AutoencoderTrainer.reconstruct

    def reconstruct(trainer: Any, images: Any) -> Any:
        if trainer.ranks.rank == 1:
            raise UserError("the disk of this rank is on fire")
        return original(trainer, images)

    AutoencoderTrainer.reconstruct = reconstruct  # type: ignore[method-assign]


def _fail_on_rank_1() -> None:
    original, calls = Trainer.update, [0]

    def update(trainer: Any, batch: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3 and trainer.ranks.rank == 1:
            raise UserError("the disk of this rank is on fire")
        return original(trainer, batch)

    Trainer.update = update  # type: ignore[method-assign]


@pytest.mark.parametrize("fail", [_fail_on_rank_1, pytest.param(_fail_looking_on_rank_1, marks=pytest.mark.slow)])
def test_one_ranks_error_ends_all_with_its_message(tmp_path: Path, fail: Fault) -> None:
    started = time.monotonic()
    codes = finish_ranks(toy(tmp_path), tmp_path / "log", 2, fail)
    assert time.monotonic() - started < 60
    assert None not in codes
    assert 0 not in codes
    assert "error: rank 1: the disk of this rank is on fire" in (tmp_path / "log.0").read_text()
    failure = json.loads((tmp_path / "quickstart" / "failure.json").read_text())
    assert failure["reason"] == "rank 1: the disk of this rank is on fire"
    assert "error" not in (tmp_path / "log.1").read_text().lower()


def test_what_all_ranks_find_one_of_them_says(tmp_path: Path) -> None:
    """Not one of several that end at once takes the end of another one for its own."""
    values = toy(tmp_path, "data.n_images=14", "stage.steps.vae.batch_size=15", stage="vae")
    assert finish_ranks(values, tmp_path / "log", 3) == [2, 2, 2]
    logs = [(tmp_path / f"log.{rank}").read_text() for rank in range(3)]
    few = "the training set has 14 samples, fewer than a batch of 15; set stage.steps.vae.batch_size lower"
    assert logs == [f"error: step vae: {few}\n", "", ""]


def test_a_rank_that_is_killed_does_not_leave_the_others_waiting(tmp_path: Path) -> None:
    values = toy(tmp_path, "hardware.devices=2", "stage.steps.vae.n_epochs=5000", "log_every=1")
    ranks = start_ranks(values, tmp_path / "log", 2)
    while "Batch" not in (tmp_path / "log.0").read_text() if (tmp_path / "log.0").exists() else True:
        ranks[0].join(0.05)
        assert ranks[0].exitcode is None
    assert ranks[1].pid
    os.kill(ranks[1].pid, signal.SIGKILL)
    ranks[0].join(60)
    assert ranks[0].exitcode not in (None, 0)
    reason = json.loads((tmp_path / "quickstart" / "failure.json").read_text())["reason"]
    assert reason.startswith("another rank ended without a word, as a killed process does")
    assert f"error: {reason}" in (tmp_path / "log.0").read_text()


@pytest.mark.slow
def test_a_sharded_flow_transformer_trains_alike_and_loads_on_any_number_of_ranks(
    tmp_path: Path, alone: tuple[Path, list[Any]]
) -> None:
    """Sharded on four ranks, then on two from their checkpoint, then whole on one.

    Three prompts do not divide by the ranks, which draw them together.
    """
    fsdp, log = ["hardware.parallel=fsdp", "hardware.devices=2", "checkpoint.every_updates=1"], tmp_path / "log"
    fsdp += ["samples.every_updates=2", "samples.count=3"]
    assert finish_ranks(toy(tmp_path, *fsdp), log, 4, StopAfter(19)) == [143] * 4, (tmp_path / "log.0").read_text()
    checkpoint = sorted((tmp_path / "quickstart" / "checkpoints").glob("03-flow-*.pt"))[-1]
    state = torch.load(checkpoint, weights_only=True)["players"]["flow"]
    assert state["parts"]["flow_processor"]["embed.weight"].shape == (32, 4)
    assert state["optimizer"]["state"][0]["exp_avg"].shape == (32, 4)
    assert finish_ranks(toy(tmp_path, *fsdp), log, 2, StopAfter(2)) == [143, 143], (tmp_path / "log.0").read_text()
    assert finish(toy(tmp_path), log) == 0, log.read_text()
    assert "continuing after update 5 of 8" in log.read_text()
    assert losses(tmp_path / "quickstart") == pytest.approx(losses(alone[0]), rel=TOLERANCE, abs=TOLERANCE)


def test_as_many_ranks_as_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"1 rank was started on this machine, but hardware\.devices=2"):
        distributed.start_ranks(torch.device("cpu"), 2)
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match=r"3 ranks were started on this machine, but hardware\.devices=1"):
        distributed.start_ranks(torch.device("cpu"), 1)


def test_there_are_as_many_nodes_as_a_launcher_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"hardware": {"devices": 2, "slurm": {"nodes": 2, "minutes": 60}}, "seed": 0}
    with pytest.raises(UserError, match=r"hardware\.slurm\.nodes=2 needs a command .* set hardware\.slurm\.nodes=1"):
        distributed.with_started_nodes(values)
    for name, count in {"RANK": 0, "WORLD_SIZE": 6, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(count))
    started = distributed.with_started_nodes(values)
    assert started == {"hardware": {"devices": 2, "slurm": {"nodes": 3, "minutes": 60}}, "seed": 0}
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "6")
    assert distributed.with_started_nodes(values)["hardware"]["slurm"]["nodes"] == 1


def test_alone_everything_is_the_identity() -> None:
    ranks = Ranks()
    assert ranks.first
    assert ranks.share(8) == slice(0, 8)
    assert ranks.sum(torch.tensor(3.0)) == 3
    assert ranks.largest([1, 2]) == [1, 2]
    assert ranks.from_first("a") == "a"
    assert ranks.gather(["b"]) == ["b"]


def test_shares_are_equal_and_in_order() -> None:
    assert [Ranks(rank, 4).share(8) for rank in range(4)] == [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8)]
