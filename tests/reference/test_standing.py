"""Planted courses beside reference runs: in the band, above, below, unlike, and cut off."""

from pathlib import Path

import pytest

from fluxflow_exp.reference import curves, standing, words
from fluxflow_exp.reference.make import reference
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.metric_log import read_rows
from tests.helpers.curves import plant

CUT = 40


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Curves of three seeds, a hundredth apart."""
    root = tmp_path_factory.mktemp("references")
    path = root / "curves.json"
    curves.write(path, reference([plant(root, seed=seed) for seed in range(3)], of="planted flows"))
    return path


def told(folder: RunFolder, file: Path) -> str:
    found = found_for(folder, file)
    return found.summary(read_rows(folder.metrics("flow"))) if found else ""


def found_for(folder: RunFolder, file: Path, key: str = "seed", value: object = 0) -> standing.Standing | None:
    """Of the run as if `key` were `value`."""
    values = node = folder.frozen()
    *above, leaf = key.split(".")
    for each in above:
        node = node[each]
    node[leaf] = value
    values["evaluation"]["reference"] = str(file)
    return standing.of(values, folder.read_record(), "flow")


def test_a_run_in_the_band_is_told_in_one_calm_line(tmp_path: Path, file: Path):
    assert told(plant(tmp_path, seed=5), file) == (
        "Step flow, update 400: on track beside 3 runs on planted flows: "
        "val_flow 1.05 in 0.961 to 1.06, flow 1.05 in 0.961 to 1.06"
    )


def test_a_run_above_is_told_what_to_check_and_what_is_different(tmp_path: Path, file: Path):
    assert told(plant(tmp_path, "model.learning_rate=2e-3", times=1.3), file) == (
        "Step flow, update 400: apart from 3 runs on planted flows: "
        "val_flow 1.30 is above 0.961 to 1.06 (they had 1.00 to 1.02), "
        "flow 1.30 is above 0.961 to 1.06 (they had 1.00 to 1.02). "
        "Check the captions (python -m fluxflow_exp.data.check), then the learning rate, "
        "then latent_std in the health rows (about 1 is right). Different here: learning rate 0.002, there 0.001"
    )


def test_a_run_below_is_told_of_leaks_and_copies(tmp_path: Path, file: Path):
    first, second = told(plant(tmp_path, times=0.7), file).splitlines()
    assert "val_flow 0.70" in first
    assert "held-out pictures are among the training ones" in first
    assert "flow 0.70" in second
    assert "several times" in second


def test_other_pictures_have_a_wider_band_and_are_told_so(tmp_path: Path, file: Path):
    assert "on track" in told(plant(tmp_path, times=1.13, names="b"), file)
    assert told(plant(tmp_path, times=1.3, names="b"), file).endswith(
        "Pictures of another kind than theirs move it, too"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.flow_processor.width", 48),
        ("data.img_size", 32),
        ("data._target_", "fluxflow_exp.data.image_folder.ImageFolder"),
        ("stage.steps.flow.trainer.objective.time_mean", 0.5),
        ("stage.steps.flow.optimizers.flow._target_", "fluxflow_exp.optimizers.muon.Muon"),
    ],
)
def test_an_unlike_run_is_told_nothing(tmp_path: Path, file: Path, key: str, value: object):
    folder = plant(tmp_path, times=9.0)
    assert told(folder, file) != ""
    assert found_for(folder, file, key, value) is None


def test_a_part_that_no_step_has_trained_yet_makes_no_run_unlike(tmp_path: Path, file: Path):
    assert found_for(plant(tmp_path), file, "model.discriminator.depth", 9) is not None


def test_off_is_off(tmp_path: Path, file: Path):
    folder = plant(tmp_path)
    values = folder.frozen()
    values["evaluation"]["reference"] = "off"
    assert standing.of(values, folder.read_record(), "flow") is None
    del values["evaluation"]["reference"]  # as of a run of before
    standing.of(values, folder.read_record(), "flow")


def test_a_shorter_schedule_is_compared_only_while_its_rate_is_alike(tmp_path: Path, file: Path):
    """At its end its rate has fallen; at update 40 of 160 it has not."""
    short = plant(tmp_path, times=1.5, ends=160, of=160)
    assert told(short, file).startswith("Step flow, update 40:")


def test_news_are_told_once_and_a_resumed_run_is_told_the_same(tmp_path: Path, file: Path):
    folder = plant(tmp_path, times=1.3)
    found, rows = found_for(folder, file), read_rows(folder.metrics("flow"))
    assert found is not None
    ends = [index + 1 for index, row in enumerate(rows) if row["kind"] == "held_out"]
    told = [found.news(rows[:end]) for end in ends]
    assert [bool(each) for each in told] == [True] + [False] * (len(ends) - 1)
    resumed = plant(tmp_path / "again", times=1.3, ends=CUT)
    again = found_for(resumed, file)
    assert again is not None
    there = read_rows(resumed.metrics("flow"))
    assert again.news(there) == told[0] != ""
    assert again.summary(there + rows[len(there) :]) == found.summary(rows) != ""


def test_a_metric_that_comes_back_is_told_when_the_step_ends(tmp_path: Path, file: Path):
    folder = plant(tmp_path)
    found, rows = found_for(folder, file), read_rows(folder.metrics("flow"))
    assert found is not None
    ends = [index + 1 for index, row in enumerate(rows) if row["kind"] == "held_out"]
    rows[ends[2] - 1]["metrics"]["val_flow"] *= 2
    before, apart, after = (found.news(rows[:end]) for end in ends[1:4])
    assert apart.startswith("Step flow, update 120: apart from 3 runs on planted flows: val_flow 2.27 is above")
    assert before == after == ""
    assert found.summary(rows).startswith("Step flow, update 400: on track beside 3 runs on planted flows: val_flow")


def test_where_an_earlier_step_lay_apart_that_is_what_to_check():
    band = curves.Band(1.0, 1.1, 1.2, 0.9, 1.3)
    facts = curves.Facts({}, {}, 8, 320, 0, "a")
    step = curves.StepCurves({}, {}, 8, 320, 0, "a", {})
    reference = curves.Reference("toys", "tiny", "full", (0, 1, 2), {}, {"flow": step})
    said = words.told("flow", [words.Finding("val_flow", 4, 0.8, band)], facts, reference, apart="vae")
    assert said.endswith("Check step vae first, which lay apart as well: this one learns from what it has made")


def test_what_lies_above_and_what_lies_below_for_one_reason_is_one_line(tmp_path: Path, file: Path):
    """PSNR too low and L1 too high ask for the same."""
    found = found_for(plant(tmp_path), file)
    assert found is not None
    band = curves.Band(1.0, 1.1, 1.2, 0.9, 1.3)
    apart = [words.Finding("val_psnr", 4, 0.8, band), words.Finding("l1", 4, 1.4, band)]
    (line,) = words.told("flow", apart, found.facts, found.reference).splitlines()
    assert "val_psnr 0.800 is below 0.900 to 1.30 (they had 1.00 to 1.20), l1 1.40 is above" in line


def test_losses_of_training_are_means_over_the_last_tenth_of_the_updates():
    def row(kind: str, update: int, **metrics: float) -> dict[str, object]:
        return {"kind": kind, "global_step": update, "metrics": metrics, "learning_rates": {}}

    rows = [row("train", update, flow=float(update), val_flow=9.0) for update in range(5, 105, 5)]
    assert standing.at(rows, log_every=5) == {"flow": 97.5}, "rows of the updates 91 to 95 and 96 to 100"
    rows.append(row("held_out", 100, val_flow=2.0))
    assert standing.at(rows, log_every=5) == {"val_flow": 2.0, "flow": 97.5}
    assert standing.at(rows[:5], log_every=5) == {}, "no row is as short as a tenth of 25 updates"
