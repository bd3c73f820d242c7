"""A flow step aligned with a teacher: what it sees of each picture, kept or not, and that a run goes on bit for bit."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fluxflow_exp import evaluate, pipeline
from fluxflow_exp.config.compose import resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.errors import UserError
from fluxflow_exp.evaluation.arguments import parser
from fluxflow_exp.machine.cuda_graphs import CudaGraphs
from fluxflow_exp.models import weights
from fluxflow_exp.models.patch_encoder import on_grid
from tests.conftest import TOY_WITHOUT_DATA
from tests.helpers.children import KillDuring, StopAfter, finish, finish_ranks
from tests.helpers.datasets import batches
from tests.helpers.flow_steps import flow_step
from tests.helpers.networks import small_timm
from tests.helpers.outcomes import losses, published
from tests.helpers.trainers import build, trainer_of, updated

TRAINER = "stage.steps.flow.trainer.repa"


@pytest.fixture(scope="module")
def on(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The words that align a flow step with a small convolutional network."""
    folder = small_timm(tmp_path_factory.mktemp("teacher"))
    return [f"+loss@{TRAINER}=repa", f"{TRAINER}.teacher_path={folder}", f"{TRAINER}.width=16"]


def flow(root: Path, autoencoder: Path, *overrides: str) -> dict[str, Any]:
    """The configuration of a flow step whose transformer has a layer to align."""
    return flow_step(root, autoencoder, "model.flow_processor.depth=3", *overrides)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, autoencoder: Path, on: list[str]) -> Path:
    """A run that is aligned in the first half of its updates, on features kept on disk."""
    root = tmp_path_factory.mktemp("undisturbed")
    pipeline.run(flow(root, autoencoder, *on, f"{TRAINER}.stop=0.5", "cache.mode=on"))
    return root / "flow_cfg"


def folder_trainer(root: Path, *overrides: str) -> Any:
    """A flow trainer on pictures of three shapes."""
    (root / "images").mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    for i in range(24):
        size = (32, 16 + 24 * (i % 3))
        Image.fromarray(generator.integers(0, 255, (*size, 3), np.uint8)).save(root / "images" / f"{i}.png")
    (root / "captions.tsv").write_text("\n".join(f"{i}.png\tpicture {i}" for i in range(24)), encoding="utf-8")
    data = ["data=image_folder", "data.img_size=16", f"data.data_path={root / 'images'}"]
    data += [f"data.captions_file={root / 'captions.tsv'}", "stage.steps.flow.batch_size=4"]
    words = ["stage=flow", *TOY_WITHOUT_DATA, *data, f"output_root={root}", *overrides]
    (root / "run").mkdir(exist_ok=True)
    return trainer_of(resolve(compose_config(words)), "flow", root / "run")


def seen(trainer: Any, batch: Any) -> torch.Tensor:
    """The features that each of the batch's samples is aligned with, in order."""
    trainer.begin_update(batch)
    micros = trainer.accumulation.micros(trainer.inputs(batch), batch.captions)
    return torch.cat([trainer.alignment.features(micro) for micro in micros])


def test_a_step_trains_with_it_and_logs_it(tmp_path: Path, on: list[str]) -> None:
    plain, batch = build(tmp_path / "plain", "flow")
    trainer, _ = build(tmp_path / "aligned", "flow", *on)
    small, _ = build(tmp_path / "small", "flow", *on, "hardware.micro_batch.flow=2")
    first = [p.detach().clone() for p in trainer.alignment.projector.parameters()]
    before, found, again = (updated(each, batch) for each in (plain, trainer, small))
    assert found["flow"] == pytest.approx(before["flow"])
    assert 0 < found["repa"] < 2
    assert "repa" not in before
    assert again["repa"] == pytest.approx(found["repa"], rel=1e-5)
    assert not torch.equal(trainer.flow.embed.weight, plain.flow.embed.weight)
    assert not any(torch.equal(p, q) for p, q in zip(first, trainer.alignment.projector.parameters(), strict=True))
    assert not any(p.requires_grad for p in trainer.alignment.teacher.parameters())
    (phase,) = trainer.phases()
    assert phase.replayed


def test_it_stands_beside_self_alignment(tmp_path: Path, on: list[str]) -> None:
    deep = "model.flow_processor.depth=4"
    both = [deep, "+loss@stage.steps.flow.trainer.self_alignment=self_alignment"]
    alone, batch = build(tmp_path / "alone", "flow", deep, *on)
    trainer, _ = build(tmp_path / "both", "flow", *on, *both)
    other, _ = build(tmp_path / "other", "flow", *both)
    found = updated(trainer, batch)
    assert found["repa"] == pytest.approx(updated(alone, batch)["repa"])
    assert found["self_alignment"] == pytest.approx(updated(other, batch)["self_alignment"])


def test_a_state_without_it_is_what_it_was(tmp_path: Path, on: list[str]) -> None:
    plain, _ = build(tmp_path / "plain", "flow")
    aligned, _ = build(tmp_path / "aligned", "flow", *on)
    assert set(plain.players["flow"].state_dict()) == {"parts", "optimizer", "schedule", "ema"}
    assert list(aligned.players["flow"].state_dict()["beside"]) == ["repa"]
    assert plain.kind(0) == ()
    assert aligned.kind(0) == ("repa",)


class Calls(CudaGraphs):
    """In place of graphs where there is no GPU: passes by what would tell them apart."""

    passed: Counter[Any] = Counter()

    def run(self, pass_: Any, arguments: Any, *, key: Any = None) -> Any:
        self.passed[key, tuple((each.shape, each.dtype) for each in arguments)] += 1
        return pass_(*arguments)


def test_before_and_after_its_stop_other_graphs_would_be_replayed_with_the_same_bits(
    tmp_path: Path, on: list[str]
) -> None:
    words = [*on, f"{TRAINER}.stop=0.5", "stage.steps.flow.n_epochs=1"]  # four updates
    launched, batch = build(tmp_path / "launched", "flow", *words)
    replayed, _ = build(tmp_path / "replayed", "flow", *words)
    replayed.accumulation.replay(Calls)
    for trainer in (launched, replayed):
        for index in range(4):
            trainer.update_index = index
            assert ("repa" in updated(trainer, batch)) == (index < 2)
    for part in ("flow_processor", "text_encoder"):
        ours, theirs = (trainer.setup.parts[part].state_dict() for trainer in (launched, replayed))
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert sorted(Calls.passed.values()) == [2, 2]


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [True, False])
def test_a_replayed_step_ends_with_the_bits_of_one_that_was_launched(
    tmp_path: Path, on: list[str], compiled: bool
) -> None:
    words = [*on, f"{TRAINER}.stop=0.5", "stage.steps.flow.n_epochs=4", "hardware.device=cuda", "hardware.exact=true"]
    words += ["hardware.precision=bf16", f"hardware.compile={str(compiled).lower()}"]
    found = []
    for graphs in ("false", "true"):
        trainer, batch = build(tmp_path / graphs, "flow", *words, f"hardware.cuda_graphs={graphs}")
        trainer.prepare()
        for index in range(16):
            trainer.update_index = index
            trainer.update(batch)
        trainer.settle()
        found.append(trainer)
    assert len(found[1].accumulation.cuda_graphs.graphs) == 1  # that with the projector is forgotten
    for part in ("flow_processor", "text_encoder"):
        ours, theirs = (trainer.setup.parts[part].state_dict() for trainer in found)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_mirrored_picture_is_seen_mirrored(tmp_path: Path, on: list[str]) -> None:
    trainer = folder_trainer(tmp_path, *on, "data.flip=true", "hardware.micro_batch.flow=2")
    assert trainer.setup.cache is None
    (batch,) = batches(trainer.source, 1)
    pictures = trainer.machine.to_device(batch.images)
    parts = torch.split(pictures, 2)
    expected = torch.cat([on_grid(trainer.alignment.teacher(part), 4, 4) for part in parts])
    assert torch.equal(seen(trainer, batch), expected)


def test_features_that_were_kept_are_those_of_each_picture_in_its_own_shape(tmp_path: Path, on: list[str]) -> None:
    words = ["data.buckets=2.0", "data.img_size=64", "data.validation_fraction=0.01"]
    trainer = folder_trainer(tmp_path, *on, *words)
    wanted = {}
    for batch in batches(trainer.source, 5):
        wanted |= dict(zip(batch.ids, seen(trainer, batch), strict=True))
    trainer.setup.cache = tmp_path / "cache"
    trainer.open_source()
    shapes = set()
    for batch in batches(trainer.source, 5):
        assert batch.features is not None
        assert batch.features.shape[-2:] == (5, 5)  # the network's own
        for name, features in zip(batch.ids, seen(trainer, batch), strict=True):
            torch.testing.assert_close(features, wanted[name])
            assert features.shape[1:] == batch.images.shape[-2:]  # moments: a token a latent
            shapes.add(tuple(features.shape[1:]))
    assert len(shapes) == 3


def test_a_picture_that_cannot_be_read_is_replaced(tmp_path: Path, on: list[str]) -> None:
    trainer = folder_trainer(tmp_path, *on, "data.max_bad_fraction=0.5")
    (tmp_path / "images" / "3.png").write_bytes(b"no picture")
    trainer.setup.cache = tmp_path / "cache"
    trainer.open_source()
    assert all("3.png" not in batch.ids for batch in batches(trainer.source, 5))
    assert list(trainer.source.bad) == list(trainer.source.features.bad) != []


def test_what_exceeds_the_bound_is_not_kept_and_refused_where_it_was_asked_for(tmp_path: Path, on: list[str]) -> None:
    latents = 2 * 4 * 4 * 4 * 4  # bytes of a picture's moments: k, channels, rows, columns, float32
    trainer = folder_trainer(tmp_path, *on, f"cache.max_gib={23 * (latents + 100) / 2**30}")
    trainer.setup.cache = tmp_path / "cache"
    trainer.open_source()
    assert trainer.source is trainer.setup.data.train
    (batch,) = batches(trainer.source, 1)
    assert len(seen(trainer, batch)) == len(batch.ids)
    trainer.setup.caching.mode = "on"
    with pytest.raises(UserError, match=r"latents and a teacher's features of 23 images take .* than cache\.max_gib="):
        trainer.open_source()
    assert not (tmp_path / "cache").exists()


def test_features_are_kept_in_two_bytes_each(tmp_path: Path, on: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    trainer = folder_trainer(tmp_path, *on)
    trainer.setup.cache = tmp_path / "cache"
    trainer.open_source()
    channels, grid = trainer.alignment.teacher.channels, trainer.source.features.values([0]).shape[-2:].numel()
    size = f"Feature cache: 23 images, {23 * channels * grid * 2 / 1e3:,.0f} kB"
    assert size in capsys.readouterr().out
    assert trainer.source.features.values([0]).dtype == torch.bfloat16


def test_a_run_without_a_cache_publishes_the_same_bytes(
    tmp_path: Path, undisturbed: Path, autoencoder: Path, on: list[str]
) -> None:
    pipeline.run(flow(tmp_path, autoencoder, *on, f"{TRAINER}.stop=0.5", "cache.mode=off"))
    assert not (tmp_path / "cache").exists()
    assert published(tmp_path / "flow_cfg") == published(undisturbed)


def test_after_its_stop_nothing_is_aligned_and_no_projector_is_published(undisturbed: Path) -> None:
    from fluxflow_exp.run.metric_log import read_rows

    rows = [r for r in read_rows(undisturbed / "graph" / "training_metrics_flow.jsonl") if r["kind"] == "train"]
    assert ["repa" in row["metrics"] for row in rows] == [True, True, False]  # of updates 1-3, 4-6 and 7-8
    said = (undisturbed / "log.txt").read_text()
    assert said.count("Alignment with the teacher is off from update 5 of 8 on (stop)") == 1
    lines = [line for line in said.splitlines() if "| Flow: " in line]
    assert ["| Alignment: " in line for line in lines] == [True, True, True, False]
    names = [
        n
        for part in weights.find_parts(undisturbed)
        for n in weights.shapes(undisturbed / "weights" / "final.safetensors", part)
    ]
    assert names
    assert not any("repa" in name for name in names)


def test_its_teacher_does_not_judge_what_it_has_taught(tmp_path: Path, undisturbed: Path, on: list[str]) -> None:
    teacher, words = on[1].partition("=")[2], ["--device", "cpu", "--steps", "1"]
    with pytest.raises(UserError, match="taught this model, and does not judge"):
        evaluate.evaluate(parser().parse_args([str(undisturbed), *words, "--features", teacher, "--metrics", "fd"]))
    other = small_timm(tmp_path / "other", seed=1)
    given = [str(undisturbed), *words, "--metrics", "fd"]
    found = evaluate.evaluate(parser().parse_args([*given, "--features", str(other)]))[0]
    assert {each.metric for each in found} == {"fd"}


@pytest.mark.slow
def test_killed_before_and_after_its_stop_a_run_ends_with_the_same_bytes(
    tmp_path: Path, undisturbed: Path, autoencoder: Path, on: list[str]
) -> None:
    values = flow(tmp_path, autoencoder, *on, f"{TRAINER}.stop=0.5", "cache.mode=on")
    update = ("fluxflow_exp.trainers.base:Trainer", "update")
    writing = KillDuring("numpy", "save", 2)  # the first shard is of latents
    for kill in (writing, KillDuring(*update, 3), KillDuring(*update, 3, "after"), KillDuring(*update, 2)):
        assert finish(values, tmp_path / "log", kill) == -9, (tmp_path / "log").read_text()
    assert finish(values, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    assert published(tmp_path / "flow_cfg") == published(undisturbed)
    assert losses(tmp_path / "flow_cfg") == losses(undisturbed)


@pytest.mark.slow
def test_a_teacher_that_has_changed_is_not_gone_on_with(tmp_path: Path, autoencoder: Path, on: list[str]) -> None:
    folder = small_timm(tmp_path / "teacher")
    values = flow(tmp_path, autoencoder, *on, f"{TRAINER}.teacher_path={folder}")
    assert finish(values, tmp_path / "log", KillDuring("fluxflow_exp.trainers.base:Trainer", "update", 3)) == -9
    moved = folder.rename(tmp_path / "moved")
    values["stage"]["steps"]["flow"]["trainer"]["repa"]["teacher_path"] = str(moved)
    assert finish(values, tmp_path / "log", KillDuring("fluxflow_exp.trainers.base:Trainer", "update", 2)) == -9
    small_timm(moved, seed=1)
    assert finish(values, tmp_path / "log") == 2
    assert f"{moved / 'model.safetensors'} has changed" in (tmp_path / "log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_train_as_one_does_and_go_on_as_one(
    tmp_path: Path, undisturbed: Path, autoencoder: Path, on: list[str], parallel: str
) -> None:
    more = [f"hardware.parallel={parallel}", "hardware.devices=2"]
    values = flow(tmp_path, autoencoder, *on, f"{TRAINER}.stop=0.5", "cache.mode=on", *more)
    assert finish_ranks(values, tmp_path / "log", 2, StopAfter(3)) == [143, 143], (tmp_path / "log.0").read_text()
    alone = flow(tmp_path, autoencoder, *on, f"{TRAINER}.stop=0.5", "cache.mode=on")
    assert finish(alone, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    assert losses(tmp_path / "flow_cfg") == pytest.approx(losses(undisturbed), rel=2e-3, abs=2e-3)
