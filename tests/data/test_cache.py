"""Cached latents: the numbers of training are those without, and a cache that does not fit is not used."""

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fluxflow_exp import pipeline
from fluxflow_exp.config.compose import resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.data.array_shards import ArrayShards
from fluxflow_exp.data.cache import DrawnCache, LatentCache
from fluxflow_exp.data.mixture import Mixture
from fluxflow_exp.data.shapes import Shapes
from fluxflow_exp.errors import UserError
from fluxflow_exp.machine.preemption import Interrupted
from fluxflow_exp.models.compact_vae import Compressor
from fluxflow_exp.models.text_encoder import Text
from fluxflow_exp.preflight import check
from fluxflow_exp.trainers.latent_cache import open_cache
from fluxflow_exp.trainers.latents import Cached
from tests.conftest import TOY_WITHOUT_DATA, toy
from tests.helpers.children import KillDuring, finish, finish_ranks
from tests.helpers.datasets import batches
from tests.helpers.flow_steps import flow_step, trained_autoencoder
from tests.helpers.outcomes import published
from tests.helpers.shards import build, write_shards
from tests.helpers.trainers import trainer_of

N = 600  # of the drawings: three shards
DRAWINGS = f"data.n_images={N}"
FROZEN_TEXT = "stage.steps.flow.freeze=[text_encoder]"


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_autoencoder(tmp_path_factory.mktemp("autoencoder"), DRAWINGS)


def flow(root: Path, autoencoder: Path, *overrides: str) -> dict[str, Any]:
    """The configuration of a flow step of nine updates on cached latents, saved at every third."""
    short = ["stage.steps.flow.max_updates=9", "checkpoint.every_updates=3"]
    return flow_step(root, autoencoder, "cache.mode=on", *short, DRAWINGS, *overrides)


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory, autoencoder: Path) -> dict[str, bytes]:
    """What a run without a cache publishes."""
    root = tmp_path_factory.mktemp("without")
    pipeline.run(flow(root, autoencoder, "cache.mode=off"))
    assert not (root / "cache").exists()
    return published(root / "flow_cfg")


def pictures(root: Path, count: int = 24) -> list[str]:
    """Overrides for a folder of images."""
    (root / "images").mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    for i in range(count):
        size = (24, 16 + 8 * (i % 3))
        Image.fromarray(generator.integers(0, 255, (*size, 3), np.uint8)).save(root / "images" / f"{i}.png")
    lines = [f"{i}.png\tpicture of number {i}{' and more' * (i % 4)}" for i in range(count)]
    (root / "captions.tsv").write_text("\n".join(lines), encoding="utf-8")
    return [f"data.data_path={root / 'images'}", f"data.captions_file={root / 'captions.tsv'}"]


def flow_trainer(root: Path, *overrides: str) -> Any:
    """A flow trainer on a folder of images below `root`; its parts have fresh weights."""
    data = ["data=image_folder", "data.img_size=16", "data.max_bad_fraction=0.5", "data.validation_fraction=0.2"]
    step = ["stage.steps.flow.batch_size=4", "stage.steps.flow.n_epochs=2"]
    values = resolve(compose_config(["stage=flow", *TOY_WITHOUT_DATA, *data, *step, f"output_root={root}", *overrides]))
    (root / "run").mkdir(exist_ok=True)
    return trainer_of(values, "flow", root / "run")


def read(source: Any, first: int = 0, **ranks: int) -> list[Any]:
    return batches(source, 9, first=first, **ranks)


def test_published_weights_are_those_without_bit_for_bit(
    tmp_path: Path, autoencoder: Path, without: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = flow(tmp_path, autoencoder)
    monkeypatch.setattr(Compressor, "forward", lambda *_: pytest.fail("an image was encoded at an update"))
    pipeline.run(values)
    assert published(tmp_path / "flow_cfg") == without


@pytest.mark.parametrize("dropped", [[False] * 4, [True, False, True, False], [True] * 4])
def test_tokens_of_a_frozen_text_encoder_are_those_that_it_gives(tmp_path: Path, dropped: list[bool]) -> None:
    trainer = flow_trainer(tmp_path, *pictures(tmp_path), FROZEN_TEXT, "hardware.micro_batch.flow=2")

    def texts() -> list[Any]:
        batch = read(trainer.source)[1]
        trainer.begin_update(batch)
        micros = trainer.accumulation.micros(trainer.inputs(batch), batch.captions)
        return [Text(*trainer.latents.text(micro, dropped[micro.rows])) for micro in micros]

    live = texts()
    trainer.setup.cache = tmp_path / "cache"
    trainer.open_source()
    trainer.text_encoder.forward = lambda captions: pytest.fail("captions were encoded again")
    for mine, theirs in zip(texts(), live, strict=True):
        assert torch.equal(mine.mask, theirs.mask)
        # The encoder rounds otherwise when a caption stands beside longer ones.
        torch.testing.assert_close(mine.tokens, theirs.tokens, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "fault",
    [
        KillDuring("numpy", "save", 2, "after"),
        KillDuring("fluxflow_exp.trainers.base:Trainer", "update", 5),
    ],
    ids=repr,
)
def test_what_was_killed_continues_to_the_same_weights(
    tmp_path: Path, autoencoder: Path, without: dict[str, bytes], fault: KillDuring
) -> None:
    values, log = flow(tmp_path, autoencoder), tmp_path / "log"
    assert finish(values, log, _load, fault) == -9, log.read_text()
    (folder,) = (tmp_path / "cache").iterdir()
    first = (folder / "00000.npy").stat().st_mtime_ns
    assert finish(values, log) == 0, log.read_text()
    assert (folder / "00000.npy").stat().st_mtime_ns == first
    assert ArrayShards(folder, 3).missing() == []
    assert published(tmp_path / "flow_cfg") == without


def _load() -> None:
    import fluxflow_exp.trainers.flow  # noqa: F401 - a child loads it late, and the fault looks for it at once


class Note:
    """Each rank notes which shards it writes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self) -> None:
        write = ArrayShards.write

        def noted(shards: ArrayShards, number: int, *arguments: Any) -> None:
            write(shards, number, *arguments)
            with self.path.open("a") as file:
                file.write(f"{os.environ['RANK']} {number}\n")

        ArrayShards.write = noted  # type: ignore[method-assign]


def test_each_rank_writes_its_share(tmp_path: Path, autoencoder: Path) -> None:
    values, log = flow(tmp_path, autoencoder, "stage.steps.flow.max_updates=2"), tmp_path / "log"
    assert finish_ranks(values, log, 2, Note(tmp_path / "noted")) == [0, 0], (tmp_path / "log.0").read_text()
    assert sorted((tmp_path / "noted").read_text().splitlines()) == ["0 0", "0 2", "1 1"]


@pytest.mark.parametrize("options", [[], ["data.buckets=2.0"], ["data.reduced_min_sizes=[16]", "data.img_size=32"]])
def test_batches_are_those_of_the_source_in_order(tmp_path: Path, options: list[str]) -> None:
    trainer = flow_trainer(tmp_path, *pictures(tmp_path), *options)
    broken = tmp_path / "images" / trainer.source.entries[1].id
    broken.write_bytes(broken.read_bytes()[:400])
    source, cache = trainer.source, open_cache(trainer.setup, tmp_path / "cache", trainer.trains_text)
    assert cache.groups == source.groups
    bad = 0
    for theirs, mine in zip(read(source), read(cache), strict=True):
        assert (mine.ids, mine.captions, mine.bad) == (theirs.ids, theirs.captions, theirs.bad)
        with torch.no_grad():
            expected = trainer.compressor.moments(trainer.machine.to_device(theirs.images))
        torch.testing.assert_close(mine.images, expected, rtol=1e-5, atol=1e-6)
        bad += len(mine.bad)
    assert bad > 0
    whole = [b.ids for b in read(cache)]
    assert [b.ids for b in read(cache, first=4)] == whole[4:]
    halves = zip(read(cache, rank=0, ranks=2), read(cache, rank=1, ranks=2), strict=True)
    assert [a.ids + b.ids for a, b in halves] == whole


def test_of_several_captions_the_same_ones_are_chosen_and_all_have_tokens(tmp_path: Path) -> None:
    overrides = pictures(tmp_path)
    with (tmp_path / "captions.tsv").open("a") as file:
        file.write("".join(f"\n{i}.png\tshort {i}\n{i}.png\tnumber {i}, in other words" for i in range(0, 24, 2)))
    trainer = flow_trainer(tmp_path, *overrides, FROZEN_TEXT)
    broken = tmp_path / "images" / trainer.source.entries[2].id
    broken.write_bytes(broken.read_bytes()[:400])
    source, cache = trainer.source, open_cache(trainer.setup, tmp_path / "cache", trainer.trains_text)
    seen = set()
    for theirs, mine in zip(read(source), read(cache), strict=True):
        assert (mine.ids, mine.captions, mine.bad) == (theirs.ids, theirs.captions, theirs.bad)
        assert mine.tokens is not None
        for row, caption in enumerate(mine.captions):
            own = mine.tokens.tokens[row, : mine.tokens.lengths[row]]
            expected = torch.from_numpy(trainer_tokens(trainer, caption))
            torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)
        seen |= {caption.split()[0] for caption in mine.captions}
    assert seen == {"picture", "short", "number"}
    assert cache.read_rows([0]).captions == [source.entries[0].caption]


def test_a_mixture_draws_the_same_samples_from_its_cache(tmp_path: Path) -> None:
    trainer = flow_trainer(tmp_path, *pictures(tmp_path), FROZEN_TEXT)
    for entry in trainer.source.entries[:6]:
        broken = tmp_path / "images" / entry.id
        broken.write_bytes(broken.read_bytes()[:400])
    folder = trainer.setup.data
    mixed = Mixture({"a": folder, "b": folder, "c": folder}, {"a": 1, "b": 3, "c": 0})
    cache = open_cache(replace(trainer.setup, data=mixed), tmp_path / "cache", trainer.trains_text)
    assert len(cache) == len(mixed.train)
    bad = 0
    for theirs, mine in zip(read(mixed.train), read(cache), strict=True):
        assert (mine.ids, mine.captions, mine.bad) == (theirs.ids, theirs.captions, theirs.bad)
        with torch.no_grad():
            expected = trainer.compressor.moments(trainer.machine.to_device(theirs.images))
        torch.testing.assert_close(mine.images, expected, rtol=1e-5, atol=1e-6)
        bad += len(mine.bad)
    assert bad > 0
    assert isinstance(cache, DrawnCache)
    assert len(cache.cache) == 2 * len(folder.train)


def trainer_tokens(trainer: Any, caption: str) -> np.ndarray:
    """(own length, width) of a caption by itself."""
    with torch.no_grad():
        text = trainer.text_encoder([caption])
    found: np.ndarray = text.tokens[0][text.mask[0]].numpy()
    return found


def test_latents_are_drawn_with_the_same_noise(tmp_path: Path) -> None:
    trainer = flow_trainer(tmp_path, *pictures(tmp_path))
    trainer.prepare()
    images = read(trainer.source)[0]
    statistics = trainer.flow.latent_mean.clone(), trainer.flow.latent_std.clone()
    noise = torch.randn(4, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    live = trainer.latents.posterior(trainer.inputs(images)).sample(noise)
    trainer.setup.cache = tmp_path / "cache"
    trainer.open_source()
    assert isinstance(trainer.latents, Cached)
    kept = trainer.latents.posterior(trainer.inputs(read(trainer.source)[0])).sample(noise)
    assert torch.equal(live, kept)
    trainer.prepare()
    assert torch.equal(trainer.flow.latent_mean, statistics[0])
    assert torch.equal(trainer.flow.latent_std, statistics[1])


def test_half_precision_keeps_moments_in_float16(tmp_path: Path) -> None:
    trainer = flow_trainer(tmp_path, *pictures(tmp_path), "hardware.precision=bf16")
    cache = open_cache(trainer.setup, tmp_path / "cache", trainer.trains_text)
    rows = cache.read_rows([0, 1])
    assert rows.values.dtype == torch.float16
    images = torch.stack([trainer.source.read(i, None).image for i in (0, 1)])
    with torch.no_grad(), trainer.machine.autocast():
        expected = trainer.compressor.moments(trainer.machine.to_device(images))
    torch.testing.assert_close(rows.values.float(), expected, rtol=1e-2, atol=1e-2)


def test_whatever_the_latents_depend_on_makes_another_cache(tmp_path: Path) -> None:
    data = pictures(tmp_path)

    def folder(*overrides: str, change: float = 0.0) -> str:
        trainer = flow_trainer(tmp_path, *data, *overrides)
        with torch.no_grad():
            next(trainer.compressor.parameters()).view(-1)[0] += change
        return open_cache(trainer.setup, tmp_path / "cache", trainer.trains_text).shards.folder.name

    found = [folder()]
    assert folder("hardware.micro_batch.flow=2") == found[0]
    found += [folder(change=0.01), folder("data.img_size=32"), folder("data.background=black")]
    first, second = (entry.id for entry in flow_trainer(tmp_path, *data).source.entries[:2])
    Image.new("RGB", (24, 24)).save(tmp_path / "images" / first)
    found.append(folder())
    captions = tmp_path / "captions.tsv"
    captions.write_text(captions.read_text().replace(f"{second}\t", f"{second}\tnice "))
    found.append(folder())
    assert len(set(found)) == len(found) == 6


def test_other_text_weights_make_another_text_cache(tmp_path: Path) -> None:
    names = []
    for change in (0.0, 0.0, 0.01):
        trainer = flow_trainer(tmp_path, *pictures(tmp_path), FROZEN_TEXT)
        with torch.no_grad():
            next(trainer.text_encoder.parameters()).view(-1)[0] += change
        tokens = open_cache(trainer.setup, tmp_path / "cache", trainer.trains_text).tokens
        assert tokens
        names.append(tokens.shards.folder.name)
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize("kind", ["latents", "text"])
def test_a_changed_entry_is_found_at_the_start(tmp_path: Path, kind: str) -> None:
    trainer = flow_trainer(tmp_path, *pictures(tmp_path), FROZEN_TEXT)
    open_cache(trainer.setup, tmp_path / "cache", trainer.trains_text)
    (folder,) = (tmp_path / "cache").glob(f"{kind}-*")
    array = np.load(folder / "00000.npy")
    np.save(folder / "00000.npy", array + 0.1 * np.abs(array).mean())
    with pytest.raises(UserError, match=rf"{folder} does not hold what it should.*Delete that folder"):
        open_cache(trainer.setup, tmp_path / "cache", trainer.trains_text)


def test_a_full_disk_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = flow_trainer(tmp_path, *pictures(tmp_path))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"needs \d+ kB, and its disk has 1 kB free.*cache\.path.*cache\.mode=off"):
        open_cache(trainer.setup, tmp_path / "cache", trainer.trains_text)
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_fewer_images_are_encoded_at_once_where_memory_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = flow_trainer(tmp_path, *pictures(tmp_path))
    expected = open_cache(trainer.setup, tmp_path / "cache", trainer.trains_text).read_rows([0, 5]).values
    encode, sizes = Compressor.moments, []

    def moments(self: Compressor, images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("planted")
        return encode(self, images)

    monkeypatch.setattr(Compressor, "moments", moments)
    found = open_cache(trainer.setup, tmp_path / "again", trainer.trains_text).read_rows([0, 5]).values
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert sizes[:3] == [4, 2, 2]
    assert set(sizes[1:]) == {2}
    assert trainer.accumulation.micro_batch == 4


def test_a_signal_ends_writing_between_shards(tmp_path: Path) -> None:
    trainer = flow_trainer(tmp_path, *pictures(tmp_path), "data.buckets=2.0")
    trainer.setup.stop.signum = 15
    with pytest.raises(Interrupted):
        open_cache(trainer.setup, tmp_path / "cache", trainer.trains_text)
    (folder,) = (tmp_path / "cache").iterdir()
    assert [p.name for p in sorted(folder.iterdir())] == ["00000.json", "00000.npy"]


def test_numbers_that_float16_cannot_hold_are_refused(tmp_path: Path) -> None:
    trainer = flow_trainer(tmp_path, *pictures(tmp_path), "hardware.precision=bf16")
    with torch.no_grad():
        trainer.compressor.head[1].bias.fill_(1e6)
    with pytest.raises(UserError, match=r"not finite in torch\.float16: set cache\.mode=off"):
        open_cache(trainer.setup, tmp_path / "cache", trainer.trains_text)


def test_a_mode_or_a_place_that_cannot_be_is_said_before_data_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = check.problems(toy(tmp_path, "cache.mode=maybe", f"cache.path={tmp_path / 'file' / 'cache'}"))
    assert found[0] == "cache.mode is one of auto, on, off, not 'maybe'"
    assert found[1].startswith("cache.path=")


def test_a_shard_without_its_record_is_missing(tmp_path: Path) -> None:
    shards = ArrayShards(tmp_path, 2)
    shards.write(1, np.arange(3), {"a": 1})
    np.save(tmp_path / "00000.npy", np.arange(3))
    assert shards.missing() == [0]
    assert shards.array(1).tolist() == [0, 1, 2]
    assert json.loads((tmp_path / "00001.json").read_text()) == {"a": 1}
    assert LatentCache(tmp_path, Shapes(img_size=16, n_images=N).train).shards.count == 3


def test_mapping_many_shards_keeps_no_file_open(tmp_path: Path) -> None:
    shards = ArrayShards(tmp_path, 40)
    for number in range(40):
        shards.write(number, np.full((number, 3), number, np.float16), None)
    before = len(os.listdir("/proc/self/fd"))
    arrays = [shards.array(number) for number in range(40)]
    assert len(os.listdir("/proc/self/fd")) == before
    for number, array in enumerate(arrays):
        assert array.dtype == np.float16
        assert np.array_equal(array, np.full((number, 3), number))


def test_fingerprints_follow_arguments_and_files(tmp_path: Path) -> None:
    drawn = {"img_size": 16, "n_images": 8, "n_validation": 8, "seed": 0}
    changed = [drawn, {**drawn, "img_size": 32}, {**drawn, "n_images": 9}, {**drawn, "seed": 1}]
    assert len({Shapes(**options).train.fingerprint() for options in changed}) == 4
    assert Shapes(**drawn).train.fingerprint() == Shapes(**drawn).train.fingerprint()
    write_shards(tmp_path)
    before, contents = (build(tmp_path).train.fingerprint(times=times) for times in (True, False))
    assert build(tmp_path).train.fingerprint() == before
    os.utime(tmp_path / "train-003.tar", ns=(0, 0))
    assert build(tmp_path).train.fingerprint() != before
    assert build(tmp_path).train.fingerprint(times=False) == contents
