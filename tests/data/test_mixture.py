"""Several data sets in a pipeline: by name, and mixed by weight."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from fluxflow_exp import pipeline
from fluxflow_exp.config.compose import resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.data.image_folder import ImageFolder
from fluxflow_exp.data.mixture import Mixture
from fluxflow_exp.preflight.check import problems
from tests.conftest import TOY_STEPS, TOY_WITHOUT_DATA
from tests.helpers.datasets import image_folder, write_folder


def folder(path: Path, value: int, n: int) -> ImageFolder:
    write_folder(path, [Image.new("RGB", (16, 16), (value, i, 0)) for i in range(n)])
    captions = path / "captions.tsv"
    captions.write_text(captions.read_text().replace("\tpicture", f"\t{path.name}"))
    return image_folder(path)


@pytest.fixture
def sets(tmp_path: Path) -> dict[str, ImageFolder]:
    return {"portraits": folder(tmp_path / "portraits", 10, 60), "landscapes": folder(tmp_path / "landscapes", 200, 30)}


def test_samples_are_drawn_by_weight_and_named_by_their_set(sets: dict[str, ImageFolder]) -> None:
    mixed = Mixture(sets, {"portraits": 0.25, "landscapes": 0.75})
    found = [mixed.train.read(0, random.Random(k)) for k in range(2000)]
    counts = Counter(sample.id.split("/")[0] for sample in found)
    assert counts["landscapes"] / 2000 == pytest.approx(0.75, abs=0.03)
    assert all((sample.image[0, 0, 0] == 200) == sample.id.startswith("landscapes/") for sample in found)
    assert mixed.train.read(0, random.Random(5)).id == found[5].id
    assert len(mixed.train) == sum(len(each.train) for each in sets.values())
    assert len(mixed.validation) == sum(len(each.validation) for each in sets.values())
    assert {p.split()[0] for p in mixed.prompts[:2]} == {"portraits", "landscapes"}


def test_a_weight_of_nothing_is_refused(sets: dict[str, ImageFolder]) -> None:
    with pytest.raises(ValueError, match="one of them positive"):
        Mixture(sets, {"portraits": 0.0})


def overrides(tmp_path: Path, *more: str) -> list[str]:
    named = [
        line
        for name in ("portraits", "landscapes")
        for line in (
            f"+data@data.datasets.{name}=image_folder",
            f"data.datasets.{name}.data_path={tmp_path / name / 'images'}",
            f"data.datasets.{name}.captions_file={tmp_path / name / 'captions.tsv'}",
            f"data.datasets.{name}.img_size=16",
        )
    ]
    return [
        "stage=quickstart",
        "data=multi",
        *TOY_WITHOUT_DATA,
        *TOY_STEPS,
        *named,
        f"output_root={tmp_path / 'out'}",
        *more,
    ]


def test_each_step_trains_on_what_it_names(sets: dict[str, ImageFolder], tmp_path: Path) -> None:
    chosen = [
        "data.default=portraits",
        "stage.steps.vae_gan.data=landscapes",
        "stage.steps.flow.data={portraits: 0.5, landscapes: 0.5}",
    ]
    values = resolve(compose_config(overrides(tmp_path, *chosen)))
    assert problems(values) == []
    pipeline.run(values)
    steps = json.loads((tmp_path / "out" / "quickstart" / "summary.json").read_text())["steps"]
    trained = {name: step["updates"] for name, step in steps.items()}
    per_epoch = {name: len(each.train) // 8 for name, each in sets.items()}
    whole = sum(len(each.train) for each in sets.values()) // 8
    assert trained == {"vae": 2 * per_epoch["portraits"], "vae_gan": 2 * per_epoch["landscapes"], "flow": 2 * whole}


def test_names_that_are_none_are_said(sets: dict[str, ImageFolder], tmp_path: Path) -> None:
    values = resolve(compose_config(overrides(tmp_path, "stage.steps.vae.data=portrait")))
    found = problems(values)
    assert any("no data set 'portrait'; did you mean 'portraits'" in line for line in found)
    assert sum("data is not set: name one of portraits, landscapes" in line for line in found) == 2
