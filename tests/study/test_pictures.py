"""Pictures of all arms at equal budget, out of run folders."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from PIL import Image

from fluxflow_exp.report.gallery import SIDE
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.study import pictures, sentences
from tests.helpers.answers import made_answer
from tests.helpers.carded import HASHES, HOSTILE, make_carded

Runs = dict[str, dict[int, RunFolder]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_carded(tmp_path_factory.mktemp("made")).path


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Runs:
    def copied(name: str) -> RunFolder:
        return RunFolder(shutil.copytree(made, tmp_path / name))

    return {"silu": {1: copied("silu-1"), 0: copied("silu-0")}, "bezier, degree 3": {1: copied("bezier-1")}}


def test_they_are_of_the_seed_that_all_have_and_sized_down(runs: Runs, tmp_path: Path) -> None:
    found = pictures.gather(runs, tmp_path / "study")
    assert found is not None
    assert (found.seed, found.at, found.differs) == (1, {"silu": 32, "bezier, degree 3": 32}, "")
    assert [row.prompt for row in found.rows] == [HOSTILE, "a white ring"]
    assert found.rows[0].files["bezier, degree 3"] == "pictures/00-02-bezier-degree-3.webp"
    for row in found.rows:
        for name in row.files.values():
            with Image.open(tmp_path / "study" / name) as image:
                assert max(image.size) == SIDE  # they were drawn at 300


def test_images_are_as_many_where_one_arm_has_not_gone_as_far_or_has_larger_batches(runs: Runs, tmp_path: Path) -> None:
    rows = runs["silu"][1].metrics("flow").read_text().splitlines(keepends=True)
    runs["silu"][1].metrics("flow").write_text("".join(line for line in rows if '"global_step": 32' not in line))
    found = pictures.gather(runs, tmp_path / "study")
    assert found is not None
    assert set(found.at.values()) == {24}
    config = runs["bezier, degree 3"][1].config
    values = yaml.safe_load(config.read_text())
    size = values["stage"]["steps"]["flow"]["batch_size"]
    values["stage"]["steps"]["flow"]["batch_size"] = 3 * size // 2
    config.write_text(yaml.safe_dump(values, sort_keys=False))
    larger = pictures.gather(runs, tmp_path / "study")
    assert larger is not None
    assert larger.at == {"silu": 24, "bezier, degree 3": 16}


def test_reconstructions_stand_beside_the_image_itself(runs: Runs, tmp_path: Path) -> None:
    for own in runs.values():
        for run in own.values():
            run.metrics("flow").unlink()
    found = pictures.gather(runs, tmp_path / "study")
    assert found is not None
    assert [row.original for row in found.rows] == ["pictures/00-00-image.webp", "pictures/01-00-image.webp"]
    assert found.rows[0].prompt == "held-out image 1"
    with Image.open(tmp_path / "study" / str(found.rows[1].original)) as image:
        assert image.getpixel((0, 0)) == (140, 90, 160)


def test_pictures_of_before_are_taken_away_and_others_are_left(runs: Runs, tmp_path: Path) -> None:
    folder = tmp_path / "study" / "pictures"
    folder.mkdir(parents=True)
    for name in ("07-01-relu.webp", "curves.png"):
        (folder / name).touch()
    pictures.gather(runs, tmp_path / "study")
    assert not (folder / "07-01-relu.webp").exists()
    assert (folder / "curves.png").exists()


def test_nothing_was_drawn(runs: Runs, tmp_path: Path) -> None:
    assert pictures.gather({"silu": {}}, tmp_path / "study") is None
    for own in runs.values():
        for run in own.values():
            for path in run.samples.iterdir():
                path.unlink()
    assert pictures.gather(runs, tmp_path / "study") is None


def test_a_damaged_picture_is_left_out_and_named(runs: Runs, tmp_path: Path) -> None:
    path = runs["silu"][1].samples / f"flow_003_001_00032_{HASHES[0]}.webp"
    path.write_bytes(path.read_bytes()[:24])
    found = pictures.gather(runs, tmp_path / "study")
    assert found is not None
    assert found.damaged == [str(path)]
    assert [list(row.files) for row in found.rows] == [["bezier, degree 3"], ["silu", "bezier, degree 3"]]
    told = replace(found, rows=[], at={})
    assert str(path) in sentences.pictured(made_answer(pictures=told))


def test_settings_that_are_not_the_same_are_told(runs: Runs, tmp_path: Path) -> None:
    config = runs["silu"][1].config
    config.write_text(config.read_text().replace("guidance_scale: 4.0", "guidance_scale: 2.0"))
    found = pictures.gather(runs, tmp_path / "study")
    assert found is not None
    assert found.differs == "samples.guidance_scale is not the same in all arms"
