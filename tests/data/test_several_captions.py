"""Pictures with several captions: what is trained on and judged by, in any order of reading."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fluxflow_exp.config.compose import resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.data.image_folder import ImageFolder
from fluxflow_exp.data.images import Entry
from fluxflow_exp.data.several_captions import entry_of, joined
from fluxflow_exp.seeding import derive
from tests.conftest import TOY_WITHOUT_DATA
from tests.helpers.children import Fault, KillDuring, finish
from tests.helpers.datasets import batches, image_folder, write_folder
from tests.helpers.outcomes import published


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """30 pictures: `long I` weighs three times `short I`; the last ten have `short I` alone."""
    write_folder(tmp_path, [Image.new("RGB", (20, 16), (8 * i, 0, 0)) for i in range(30)])
    lines = [f"{i}.png\tshort {i}\t" for i in range(30)] + [f"{i}.png\tlong {i}\t3" for i in range(20)]
    (tmp_path / "captions.tsv").write_text("\n".join(["name\tcaption\tcaption_weight", *lines]), encoding="utf-8")
    return tmp_path


def test_captions_of_a_picture_join_in_the_place_of_the_first() -> None:
    def entry(name: str, caption: str) -> Entry:
        return Entry(name, caption, name)

    rows = [("a", "one", 1.0), ("b", "two", 1.0), ("a", "three", 2.0), ("b", "two", 1.0), ("a", "one", 0.5)]
    assert joined([(entry(name, caption), weight) for name, caption, weight in rows]) == [
        Entry("a", "three", "a", choices=(("one", 1.5), ("three", 2.0))),
        entry("b", "two"),
        entry("b", "two"),
    ]
    beside = [Entry("a", "one", "a"), Entry("a", "two", "a", "g")]
    assert [entry.group for entry in joined([(each, 1.0) for each in beside])] == ["g"]
    assert entry_of("a", [("one", 1.0), ("one", 2.0)], 7) == Entry("a", "one", 7)


def test_a_sample_has_one_of_its_captions_and_held_out_ones_the_heaviest(folder: Path) -> None:
    data = image_folder(folder, validation_fraction=0.3)
    assert len(data.train) + len(data.validation) == 30
    seen = {e.id: Counter[str]() for e in data.train.entries}
    for epoch in range(100):
        for index, entry in enumerate(data.train.entries):
            sample = data.train.read(index, random.Random(derive(3, "augment", epoch, index)))
            assert sample.caption.split()[1] == entry.id.removesuffix(".png")
            seen[entry.id][sample.caption.split()[0]] += 1
    several = [counts for name, counts in seen.items() if int(name.removesuffix(".png")) < 20]
    assert all(0 < counts["short"] < counts["long"] for counts in several)
    share = sum(counts["long"] for counts in several) / (100 * len(several))
    assert share == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / 100 / len(several)) ** 0.5)
    for source in (data.validation, data.train.unaugmented()):
        for index, entry in enumerate(source.entries):
            number = int(entry.id.removesuffix(".png"))
            wanted = f"{'long' if number < 20 else 'short'} {number}"
            assert {source.read(index, random.Random(k)).caption for k in range(9)} == {wanted}
    assert data.notes == [
        "20 of 30 pictures have several captions, 2.0 on average: one is chosen by weight each time, of held-out "
        "pictures the heaviest stands"
    ]
    assert {each.split()[0] for each in data.train.captions()} == {"short", "long"}


@pytest.mark.parametrize("options", [{}, {"crop": "random", "flip": True}, {"buckets": 2.0}])
def test_workers_ranks_and_where_it_starts_change_no_caption(folder: Path, options: dict[str, Any]) -> None:
    source = image_folder(folder, **options).train

    def captions(first: int = 0, **how: int) -> list[list[str]]:
        return [batch.captions for batch in batches(source, 12, first=first, **how)]

    whole = captions()
    assert len({caption for batch in whole for caption in batch}) > len(source)
    assert captions(workers=2) == whole
    assert captions(first=5) == whole[5:]
    halves = zip(captions(rank=0, ranks=2), captions(rank=1, ranks=2), strict=True)
    assert [first + second for first, second in halves] == whole


def test_of_several_captions_each_and_its_weight_are_the_data_and_of_one_its_text_alone(folder: Path) -> None:
    def digests() -> tuple[str, str, str]:
        source = image_folder(folder).train
        return source.fingerprint(), source.contents().captions, source.contents().names

    def write(*lines: str) -> tuple[str, str, str]:
        (folder / "captions.tsv").write_text("\n".join(lines))
        return digests()

    head, several = "name\tcaption\tcaption_weight", [f"{i}.png\tpicture {i}" for i in range(30)]
    plain = write(*several)
    assert write(head, *(f"{line}\t7" for line in several)) == plain, "a weight beside nothing changes nothing"
    found = [write(head, *(f"{line}\t1" for line in several), f"0.png\tanother\t{w}") for w in (1, 2)]
    assert len({plain[0], found[0][0], found[1][0]}) == len({plain[1], found[0][1], found[1][1]}) == 3
    assert found[0][2] == found[1][2] == plain[2]


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_captions_and_so_does_a_cached_one(folder: Path, tmp_path: Path) -> None:
    data = ["data=image_folder", f"data.data_path={folder / 'images'}", f"data.captions_file={folder / 'captions.tsv'}"]
    steps = ["stage.steps.flow.n_epochs=3", "stage.steps.flow.batch_size=8", "data.img_size=16"]

    def values(output: str, cache: str) -> dict[str, Any]:
        own = [f"cache.mode={cache}", f"output_root={tmp_path / output}"]
        return resolve(compose_config(["stage=flow", *TOY_WITHOUT_DATA, *steps, *data, *own]))

    def outcome(name: str, cache: str, *faults: Fault) -> dict[str, bytes]:
        assert finish(values(name, cache), log, *faults) == 0, log.read_text()
        return published(tmp_path / name / "flow")

    log = tmp_path / "log"
    whole = outcome("whole", "on")
    killed = KillDuring("fluxflow_exp.trainers.base:Trainer", "update", 5)
    assert finish(values("killed", "off"), log, killed) == -9, log.read_text()
    assert outcome("killed", "off") == whole
    assert outcome("other", "off", _always_the_heaviest) != whole, "captions matter"


def _always_the_heaviest() -> None:
    from fluxflow_exp.data import images
    from fluxflow_exp.data.caption_choice import heaviest

    images.chosen = lambda choices, rng: heaviest(choices)


def test_what_stands_in_two_files_is_told_as_ever(folder: Path) -> None:
    (folder / "held_out.tsv").write_text("0.png\tone\n0.png\ttwo\n")
    with pytest.raises(ValueError, match="held_out_file: 1 of its names stand in the captions_file"):
        ImageFolder(
            data_path=str(folder / "images"), captions_file=str(folder / "captions.tsv"),
            held_out_file=str(folder / "held_out.tsv"),
        )  # fmt: skip
