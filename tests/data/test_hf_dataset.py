"""Sets that `datasets` itself has written: the same samples whatever the form, as of a folder of images."""

import io
import os
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image

from fluxflow_exp.config import published as names
from fluxflow_exp.config.compose import resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.data.hf_dataset import HFDataset
from fluxflow_exp.data.image_folder import ImageFolder
from fluxflow_exp.data.images import is_held_out
from fluxflow_exp.data.transforms import square
from fluxflow_exp.seeding import derive
from tests.conftest import TOY_WITHOUT_DATA
from tests.helpers.children import KillDuring, finish
from tests.helpers.datasets import batches
from tests.helpers.outcomes import published

N = 40


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf_cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """`photos/train` with metadata, and the same as `saved`, `splits` (train and test) and `parquet`."""
    folder = tmp_path / "photos" / "train"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for i in range(N):
        Image.fromarray(generator.integers(0, 255, (20, 24, 3), np.uint8)).save(folder / f"{i:02}.png")
    lines = [f'{{"file_name": "{i:02}.png", "text": "picture {i}", "tags": ["a {i}", "b {i}"]}}' for i in range(N)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    whole = datasets.load_dataset(str(tmp_path / "photos"), split="train", cache_dir=str(tmp_path / "made"))
    whole.save_to_disk(tmp_path / "saved")
    (tmp_path / "parquet").mkdir()
    whole.to_parquet(tmp_path / "parquet" / "train-00000-of-00001.parquet")
    datasets.DatasetDict({"train": whole, "test": whole.select(range(3))}).save_to_disk(tmp_path / "splits")
    return tmp_path


def build(folder: Path, **options: Any) -> HFDataset:
    return HFDataset(data_path=str(folder), **{"img_size": 16, "validation_fraction": 0.2, **options})


def save(folder: Path, columns: dict[str, list[Any]], **features: Any) -> Path:
    """A set of these columns, to disk."""
    made = datasets.Dataset.from_dict(columns)
    for name, feature in features.items():
        made = made.cast_column(name, feature)
    made.save_to_disk(folder)
    return folder


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("form", ["photos", "saved", "splits", "parquet"])
def test_every_form_holds_the_same_samples(root: Path, form: str) -> None:
    data = build(root / form)
    found = {}
    for source in (data.train, data.validation):
        for index in range(len(source)):
            sample = source.read(index, random.Random(0))
            found[sample.caption] = sample.image
    assert len(data.train) + len(data.validation) == len(found) == N
    for i in (0, 17, N - 1):
        with Image.open(root / "photos" / "train" / f"{i:02}.png") as image:
            assert torch.equal(found[f"picture {i}"], square(image, 16))
    ids = {entry.id for source in (data.train, data.validation) for entry in source.entries}
    wanted = {f"train/{i:02}.png" for i in range(N)} if form == "photos" else {f"train/{i}" for i in range(N)}
    assert ids == wanted
    assert {entry.id for entry in data.validation.entries} == {name for name in wanted if is_held_out(name, 0.2)}
    assert (data.notes, data.bad) == ([], [])


def test_a_folder_of_pictures_is_the_one_that_image_folder_reads(root: Path) -> None:
    """Names and so the split, order, contents and batches, with captions from the same metadata."""
    (root / "photos" / "captions.tsv").write_text("".join(f"train/{i:02}.png\tpicture {i}\n" for i in range(N)))
    folder, captions = str(root / "photos"), str(root / "photos" / "captions.tsv")
    options: dict[str, Any] = {"img_size": 16, "validation_fraction": 0.2, "crop": "random", "flip": True}
    plain = ImageFolder(data_path=folder, captions_file=captions, **options)
    (root / "photos" / "captions.tsv").unlink()
    mine = HFDataset(data_path=folder, **options)
    assert mine.train.contents() == plain.train.contents()
    assert mine.validation.contents() == plain.validation.contents()
    assert mine.train.fingerprint() == plain.train.fingerprint(), "time of each file included"
    for here, there in zip(batches(mine.train, 12), batches(plain.train, 12), strict=True):
        assert (here.ids, here.captions) == (there.ids, there.captions)
        assert torch.equal(here.images, there.images)


@pytest.mark.parametrize("options", [{}, {"crop": "random", "caption_column": "tags"}, {"buckets": 2.0}])
def test_workers_ranks_and_where_it_starts_change_nothing(root: Path, options: dict[str, Any]) -> None:
    source = build(root / "saved", **options).train

    def read(first: int = 0, **how: int) -> list[tuple[Any, ...]]:
        found = batches(source, 12, first=first, **how)
        return [(b.ids, b.captions, b.images.flatten().tolist()) for b in found]

    whole = read()
    assert read(workers=2) == whole
    assert read(first=5) == whole[5:]
    halves = zip(read(rank=0, ranks=2), read(rank=1, ranks=2), strict=True)
    assert [tuple(x + y for x, y in zip(one, two, strict=True)) for one, two in halves] == whole


def shares(data: HFDataset, epochs: int = 60) -> dict[str, float]:
    """First words of captions, as often as they are chosen."""
    counts: Counter[str] = Counter()
    for epoch in range(epochs):
        for index in range(len(data.train)):
            sample = data.train.read(index, random.Random(derive(1, "augment", epoch, index)))
            counts[sample.caption.split()[0]] += 1
    return {word: count / counts.total() for word, count in counts.items()}


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"caption_column": "tags"}, {"one": 1 / 3, "two": 1 / 3, "three": 1 / 3}),
        ({"caption_column": "tags", "weight_column": "w"}, {"one": 0.1, "two": 0.3, "three": 0.6}),
        ({"caption_column": ["text", "tags"]}, {"long": 0.5, "one": 1 / 6, "two": 1 / 6, "three": 1 / 6}),
        ({"caption_column": ["text", "label"], "caption_weights": [3, 1]}, {"long": 0.75, "kite": 0.25}),
    ],
)
def test_several_captions_are_chosen_by_weight(
    tmp_path: Path, options: dict[str, Any], wanted: dict[str, float]
) -> None:
    columns = {
        "image": [png(i) for i in range(N)], "text": ["long words"] * N, "tags": [["one", "two", "three"]] * N,
        "w": [[1, 3, 6]] * N, "label": [1] * N,
    }  # fmt: skip
    label = datasets.ClassLabel(names=["boat", "kite"])
    data = build(save(tmp_path / "s", columns, image=datasets.Image(), label=label), **options)
    found = shares(data)
    draws = 60 * len(data.train)
    assert found.keys() == wanted.keys()
    for word, share in wanted.items():
        assert found[word] == pytest.approx(share, abs=4 * (share * (1 - share) / draws) ** 0.5)
    heaviest = max(wanted, key=wanted.__getitem__)
    assert {data.validation.read(0, random.Random(k)).caption.split()[0] for k in range(9)} == {heaviest}
    assert data.notes[0].startswith(f"{N} of {N} pictures have several captions")


def test_rows_without_picture_or_caption_are_bad_ones_with_the_reason(tmp_path: Path) -> None:
    good = {"image": {"bytes": png(7), "path": None}, "text": "fine\n words"}
    rows = [
        good | {"image": None}, good | {"image": {"bytes": None, "path": "hf://datasets/a/b/c.png"}},
        good | {"text": None}, good | {"text": ""}, good | {"image": {"bytes": b"rubbish", "path": None}},
        good | {"image": {"bytes": None, "path": str(tmp_path / "gone.png")}}, *[good] * 20,
    ]  # fmt: skip
    features = datasets.Features({"image": datasets.Image(decode=False), "text": datasets.Value("string")})
    (tmp_path / "p").mkdir()
    table = datasets.Dataset.from_list(rows, features=features).data.table.replace_schema_metadata(None)
    parquet.write_table(table, tmp_path / "p" / "train.parquet")  # as others write it; `datasets` would embed files
    data = build(tmp_path / "p", max_bad_fraction=0.5, fixed_prompt_prefix="a photo")
    assert data.bad == [
        ("train/0", "no picture"),
        ("train/1", "its picture is not in the set but at hf://datasets/a/b/c.png: download it first"),
        ("train/2", "no text"),
    ]
    assert data.notes[0] == "1 caption is empty: 'train/3'"
    assert data.notes[1].startswith("3 rows cannot be used: train/0: no picture; ")
    met = {each for batch in batches(data.train, 20) for each in batch.bad}
    assert ("train/4", "is no picture of a known format") in met
    assert ("train/5", "there is no such file") in met
    assert data.train.read(len(data.train) - 1, random.Random(0)).caption == "a photo. fine words"


def test_a_row_keeps_the_name_that_a_column_gives_it(root: Path) -> None:
    numbers = build(save(root / "ids", {"image": [png(1)] * 9, "text": ["a"] * 9, "n": [*range(9)]}), id_column="n")
    assert {e.id for e in (*numbers.train.entries, *numbers.validation.entries)} == {str(i) for i in range(9)}
    named = build(root / "saved", id_column="text")
    assert {e.id for e in named.validation.entries} == {
        f"picture {i}" for i in range(N) if is_held_out(f"picture {i}", 0.2)
    }


def test_a_split_of_its_own_is_held_out(root: Path) -> None:
    data = build(root / "splits", held_out_split="test")
    assert (len(data.train), len(data.validation)) == (N, 3)
    assert data.prompts == ["picture 0", "picture 1", "picture 2"]
    assert [e.id for e in data.validation.entries] == ["test/0", "test/1", "test/2"]
    sliced = build(root / "parquet", split="train[:75%]", held_out_split="train[75%:]")
    assert (len(sliced.train), len(sliced.validation)) == (30, 10)


def test_what_the_data_are_follows_names_captions_and_pictures(root: Path) -> None:
    def digests(folder: Path, **options: Any) -> tuple[Any, str]:
        source = build(folder, **options).train
        return source.contents(), source.fingerprint(times=False)

    plain = digests(root / "saved")
    assert digests(root / "parquet") == digests(root / "splits") == plain, "the form is none of it"
    assert build(root / "saved").train.fingerprint() == build(root / "saved").train.fingerprint()
    whole = datasets.load_from_disk(root / "saved")
    other = {
        "captions": whole.map(lambda row: {"text": row["text"] + "!"}),
        "files": whole.cast_column("image", datasets.Image(decode=False)).map(
            lambda row: {"image": {"bytes": row["image"]["bytes"] + b"x", "path": None}}
        ),
        "samples": whole.select(range(N - 1)),
    }
    for name, changed in other.items():
        changed.save_to_disk(root / name)
        contents, fingerprint = digests(root / name)
        assert getattr(contents, name) != getattr(plain[0], name)
        assert fingerprint != plain[1]
    assert digests(root / "saved", caption_column="tags")[0].captions != plain[0].captions


@pytest.mark.parametrize(
    ("form", "options", "message"),
    [
        ("saved", {"caption_column": "txt"}, r"caption_column: there is no column 'txt'; did you mean 'text'\?"),
        ("saved", {"image_column": "img"}, r"image_column: .* Those of train: 'image', 'text', 'tags'"),
        ("saved", {"image_column": "text"}, r"image_column: 'text' holds Value\('string'\), and no pictures"),
        ("saved", {"caption_column": "image"}, r"caption_column: 'image' holds Image\(.*\), and no texts"),
        ("saved", {"weight_column": "w"}, "weight_column: there is no column 'w'"),
        ("saved", {"id_column": "w"}, "id_column: there is no column 'w'"),
        ("saved", {"split": "test"}, r"data_path: .*saved cannot be opened .*: it is one set without splits"),
        ("splits", {"split": "tests"}, r"it has no split 'tests'; did you mean 'test'\?\. Its splits: train, test"),
        ("parquet", {"split": "test"}, r"Unknown split .test.\. Should be one of \['train'\]"),
        ("saved", {"held_out_split": "train"}, "held_out_split=train is what is trained on"),
        ("saved", {"caption_weights": [1.0, 2.0]}, "caption_weights has 2 numbers for 1 columns"),
        ("saved", {"caption_column": ["text", "text"]}, "must name columns, each once"),
        ("saved", {"caption_column": ["text", "tags"], "weight_column": "w"}, "those of several are caption_weights"),
        ("saved", {"revision": "main"}, "revision=main is of sets of the hub"),
        ("saved", {"dataset_name": "a/b"}, "either data.data_path=FOLDER or data.dataset_name=OWNER/NAME"),
        ("saved", {"streaming": True}, "streaming: rows that stream have no index.*data=webdataset"),
        ("absent", {}, "data_path: there is no folder .*absent"),
        (".", {"split": "validation"}, "cannot be opened as a data set"),
    ],
)
def test_what_cannot_be_is_one_clear_error(root: Path, form: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        build(root / form, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["a.png", "a.txt"], r"data=image_folder data.data_path=.*d data.captions_file=sidecar$"),
        (["in/a.png", "in/a.txt", "note.md"], r"data=image_folder .*captions_file=sidecar$"),
        (["note.md"], r"none of the known forms; taken are the folders of save_to_disk, of parquet, .*metadata.csv"),
        (["a.png", "b.png"], "none of the known forms"),
        ([], "none of the known forms"),
    ],
)
def test_a_folder_of_another_form_is_told_what_is_taken(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        path = tmp_path / "d" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(1) if name.endswith("png") else b"\xe9 not UTF-8")
    (tmp_path / "d").mkdir(exist_ok=True)
    with pytest.raises(ValueError, match=message):
        build(tmp_path / "d")


def test_a_set_of_the_hub_is_asked_for_by_name_and_revision(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local, asked = datasets.load_from_disk(root / "saved"), []

    def load(*arguments: Any, **options: Any) -> Any:
        asked.append((*arguments, options))
        return local

    monkeypatch.setattr(datasets, "load_dataset", load)
    data = HFDataset(dataset_name="someone/set", config_name="small", revision="abc", img_size=16)
    assert asked == [("someone/set", "small", {"split": "train", "revision": "abc"})]
    assert len(data.train) + len(data.validation) == N
    monkeypatch.undo()
    monkeypatch.chdir(root)
    with pytest.raises(ValueError, match=r"dataset_name=saved is a folder: give it as data\.data_path"):
        HFDataset(dataset_name="saved")
    node = {"_target_": names.HUB_SET, "dataset_name": "someone/set"}
    assert list(names.addresses({"data": node})) == [("data.dataset_name", "someone/set")], (
        "a file alone fetches nothing"
    )


def test_without_the_library_the_error_names_the_extra(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r'needs the library datasets, .*: pip install "fluxflow-exp\[datasets\]"'):
        build(root / "saved")


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(root: Path, tmp_path: Path) -> None:
    data = ["data=hf_dataset", f"data.data_path={root / 'saved'}", "data.caption_column=[text,tags]"]
    steps = ["stage.steps.flow.n_epochs=3", "stage.steps.flow.batch_size=8", "data.img_size=16"]

    def values(output: str, *more: str) -> dict[str, Any]:
        own = ["data.caption_weights=[1,2]", f"output_root={tmp_path / output}", *more]
        return resolve(compose_config(["stage=flow", *TOY_WITHOUT_DATA, *steps, *data, *own]))

    log = tmp_path / "log"
    assert finish(values("whole"), log) == 0, log.read_text()
    killed = KillDuring("fluxflow_exp.trainers.base:Trainer", "update", 5)
    more = ["cache.mode=off", "hardware.num_workers=2"]
    assert finish(values("killed", *more), log, killed) == -9, log.read_text()
    os.rename(root / "saved", root / "moved")
    data[1] = f"data.data_path={root / 'moved'}"
    assert finish(values("killed", *more), log) == 0, log.read_text()
    assert published(tmp_path / "killed" / "flow") == published(tmp_path / "whole" / "flow")
