"""A flow step that draws changed views: kept or made on the way, told to the flow transformer, and exact on resume."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fluxflow_exp import pipeline
from fluxflow_exp.losses.augmentation import changed, changes
from fluxflow_exp.models import weights
from fluxflow_exp.preflight import check
from fluxflow_exp.trainers.latents import Cached
from tests.conftest import toy
from tests.helpers.children import KillDuring, StopAfter, finish, finish_ranks
from tests.helpers.flow_steps import flow_step
from tests.helpers.outcomes import losses, published
from tests.helpers.trainers import build, updated

TRAINER = "stage.steps.flow.trainer.augmentation"
ON = [f"+loss@{TRAINER}=augmentation", f"{TRAINER}.views=3"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, autoencoder: Path) -> Path:
    root = tmp_path_factory.mktemp("undisturbed")
    pipeline.run(flow_step(root, autoencoder, *ON, "cache.mode=on"))
    return root / "flow_cfg"


def cached(trainer: Any, folder: Path) -> Any:
    """`trainer` with a cache."""
    trainer.setup.cache = folder
    trainer.open_source()
    assert isinstance(trainer.latents, Cached)
    return trainer


def parameters(trainer: Any) -> list[torch.Tensor]:
    return [p.detach() for part in ("flow_processor", "text_encoder") for p in trainer.setup.parts[part].parameters()]


def test_the_cache_holds_all_views_and_an_update_takes_those_drawn(tmp_path: Path) -> None:
    trainer, batch = build(tmp_path, "flow", *ON)
    trainer.setup.cache = None
    live = trainer.inputs(batch)
    images, drawn = trainer.machine.to_device(batch.images), trainer.augmented.drawn
    assert 0 < drawn.views.count_nonzero() < len(drawn.views)
    assert (
        drawn.changes.tolist()
        == torch.tensor(
            [changes(name, view) for name, view in zip(batch.ids, drawn.views.tolist(), strict=True)]
        ).tolist()
    )
    for row, view in enumerate(drawn.views.tolist()):
        expected = changed(images, drawn.changes)[row] if view else images[row]
        assert torch.equal(live[row], expected)
    cached(trainer, tmp_path / "cache")
    rows = [trainer.source.ids.index(name) for name in batch.ids]
    kept = batch._replace(images=trainer.source.values(rows))
    assert kept.images.shape[1] == 3 * trainer.compressor.moments(images).shape[1]
    assert torch.equal(trainer.inputs(kept), trainer.compressor.moments(live))
    assert torch.equal(trainer.latents.inputs(kept), trainer.compressor.moments(images))


def test_it_is_told_what_is_changed_and_learns_to_use_it(tmp_path: Path) -> None:
    trainer, batch = build(tmp_path, "flow", *ON, f"{TRAINER}.probability=1.0")
    small, _ = build(tmp_path / "small", "flow", *ON, f"{TRAINER}.probability=1.0", "hardware.micro_batch.flow=2")
    assert updated(trainer, batch)["flow"] == pytest.approx(updated(small, batch)["flow"], rel=1e-5)
    assert trainer.augmented.embedding[2].weight.abs().max() > 0
    told: list[torch.Tensor] = []
    trainer.flow.register_forward_pre_hook(lambda _, __, given: told.append(given["extra"]), with_kwargs=True)
    trainer.update_index = 1
    trainer.update(batch)
    expected = trainer.augmented.drawn.changes
    assert told[0].shape == (len(expected), trainer.flow.width)
    assert told[0].abs().sum(1).min() > 0
    (phase,) = trainer.phases()
    assert phase.replayed


def test_where_no_view_is_drawn_an_update_is_that_without(tmp_path: Path) -> None:
    plain, batch = build(tmp_path / "plain", "flow")
    trainer, _ = build(tmp_path / "on", "flow", *ON, f"{TRAINER}.probability=1e-9")
    assert updated(trainer, batch)["flow"] == updated(plain, batch)["flow"]
    assert all(torch.equal(*each) for each in zip(parameters(plain), parameters(trainer), strict=True))
    assert "beside" not in plain.players["flow"].state_dict()
    assert "augmentation" in trainer.players["flow"].state_dict()["beside"]


def test_latent_statistics_and_held_out_losses_are_of_pictures_as_they_are(tmp_path: Path) -> None:
    plain, _ = build(tmp_path / "plain", "flow")
    trainer, _ = build(tmp_path / "on", "flow", *ON, f"{TRAINER}.probability=1.0")
    for each, folder in ((plain, "plain"), (cached(trainer, tmp_path / "cache"), "on")):
        (tmp_path / folder / "run").mkdir(parents=True)
        each.prepare()
    assert torch.equal(trainer.flow.latent_mean, plain.flow.latent_mean)
    assert torch.equal(trainer.flow.latent_std, plain.flow.latent_std)
    assert trainer.evaluate(last=False) == plain.evaluate(last=False)


def test_two_ranks_draw_what_one_draws(tmp_path: Path) -> None:
    trainer, batch = build(tmp_path, "flow", *ON)
    augmented, whole = trainer.augmented, trainer.augmented.draw(batch, 5, 8)
    for rank in (0, 1):
        rows = slice(4 * rank, 4 * rank + 4)
        augmented.setup.ranks = SimpleNamespace(share=lambda count, rows=rows: rows)
        share = augmented.draw(batch._replace(ids=batch.ids[rows]), 5, 8)
        assert torch.equal(share.views, whole.views[rows])
        assert torch.equal(share.changes, whole.changes[rows])


def test_other_numbers_make_another_cache_and_its_size_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = cached(build(tmp_path / "one", "flow", *ON)[0], tmp_path / "cache")
    said = capsys.readouterr().out
    need = len(one.source) * one.source.values([0]).numel() * 4
    assert f"Latent cache: {len(one.source)} images in 3 views each, {need / 1e3:,.0f} kB" in said
    two = cached(build(tmp_path / "two", "flow", *ON, f"{TRAINER}.views=2")[0], tmp_path / "cache")
    none = cached(build(tmp_path / "none", "flow")[0], tmp_path / "cache")
    folders = {each.source.shards.folder for each in (one, two, none)}
    assert len(folders) == 3
    again = cached(
        build(tmp_path / "again", "flow", *ON, f"{TRAINER}.probability=0.1", "seed=1")[0], tmp_path / "cache"
    )
    assert again.source.shards.folder.parent == one.source.shards.folder.parent


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [("probability", 1.5, "in (0, 1]"), ("probability", -0.1, "in (0, 1]"), ("views", 1, "at least 2")],
)
def test_numbers_out_of_range_are_said_before_anything_is_read(
    tmp_path: Path, key: str, value: float, wanted: str
) -> None:
    found = check.problems(toy(tmp_path, *ON, f"{TRAINER}.{key}={value}"))
    assert found == [f"{TRAINER}.{key} must be {wanted}, not {value}"]


def test_a_teacher_does_not_see_changed_pictures(tmp_path: Path) -> None:
    from tests.helpers.networks import small_timm

    teacher = small_timm(tmp_path / "teacher")
    repa = "stage.steps.flow.trainer.repa"
    words = [*ON, f"+loss@{repa}=repa", f"{repa}.teacher_path={teacher}", "model.flow_processor.depth=3"]
    assert check.problems(toy(tmp_path, *words)) == [
        "stage.steps.flow.trainer.augmentation: a teacher sees pictures unchanged: leave out this or repa"
    ]


def test_nothing_of_it_is_published_and_the_plan_says_it(undisturbed: Path) -> None:
    final = undisturbed / "weights" / "final.safetensors"
    names = [name for part in weights.find_parts(undisturbed) for name in weights.shapes(final, part)]
    assert names
    assert not any("augmentation" in name for name in names)
    said = (undisturbed / "log.txt").read_text()
    assert "augmentation: 50% of drawings are of one of 2 changed views of their picture" in said


def test_a_run_without_a_cache_publishes_the_same_bytes(tmp_path: Path, undisturbed: Path, autoencoder: Path) -> None:
    pipeline.run(flow_step(tmp_path, autoencoder, *ON, "cache.mode=off"))
    assert not (tmp_path / "cache").exists()
    assert published(tmp_path / "flow_cfg") == published(undisturbed)


@pytest.mark.slow
def test_killed_while_writing_and_training_a_run_ends_with_the_same_bytes(
    tmp_path: Path, undisturbed: Path, autoencoder: Path
) -> None:
    values = flow_step(tmp_path, autoencoder, *ON, "cache.mode=on")
    update = ("fluxflow_exp.trainers.base:Trainer", "update")
    for kill in (KillDuring("numpy", "save", 1), KillDuring(*update, 3), KillDuring(*update, 3, "after")):
        assert finish(values, tmp_path / "log", kill) == -9, (tmp_path / "log").read_text()
    assert finish(values, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    assert published(tmp_path / "flow_cfg") == published(undisturbed)
    assert losses(tmp_path / "flow_cfg") == losses(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_train_as_one_does_and_go_on_as_one(
    tmp_path: Path, undisturbed: Path, autoencoder: Path, parallel: str
) -> None:
    alone = flow_step(tmp_path, autoencoder, *ON, "cache.mode=on")
    values = flow_step(
        tmp_path, autoencoder, *ON, "cache.mode=on", "hardware.devices=2", f"hardware.parallel={parallel}"
    )
    assert finish_ranks(values, tmp_path / "log", 2, StopAfter(3)) == [143, 143], (tmp_path / "log.0").read_text()
    assert finish(alone, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    assert losses(tmp_path / "flow_cfg") == pytest.approx(losses(undisturbed), rel=2e-3, abs=2e-3)
