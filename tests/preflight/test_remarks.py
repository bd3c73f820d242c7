"""What the plan says of a flow step's pictures and captions."""

from dataclasses import replace
from pathlib import Path

import pytest

from fluxflow_exp.config.compose import typed
from fluxflow_exp.data.image_folder import ImageFolder
from fluxflow_exp.data.mixture import Mixture
from fluxflow_exp.data.shapes import Shapes
from fluxflow_exp.models.text_encoder import ByteTextEncoder
from fluxflow_exp.preflight.remarks import remarks
from fluxflow_exp.step_length import Length
from tests.conftest import toy
from tests.helpers.datasets import noise, write_folder
from tests.preflight.conftest import check

LENGTH = Length(updates=1215, updates_per_epoch=40, batch_size=12, micro_batch=12)  # of 486 pictures: 30 epochs


def test_few_pictures_seen_often_are_called_out(tmp_path: Path) -> None:
    step = typed(toy(tmp_path)).stage.steps["flow"]
    encoder = ByteTextEncoder(width=8, depth=0)
    few = Shapes(img_size=16, n_images=486, n_validation=8)
    line = "486 pictures, each seen 30 times: expect copies; fine-tune (init_from) or add data"
    assert remarks(step, LENGTH, few, encoder) == [line]
    assert remarks(replace(step, init_from="run"), LENGTH, few, encoder) == [
        line.replace("fine-tune (init_from) or ", "")
    ]
    assert remarks(step, replace(LENGTH, updates=100), few, encoder) == []
    assert remarks(step, replace(LENGTH, updates=10**5), Shapes(img_size=16, n_images=5000), encoder) == []


def test_captions_that_the_text_encoder_cuts_are_counted(tmp_path: Path) -> None:
    step = typed(toy(tmp_path)).stage.steps["flow"]
    write_folder(tmp_path, noise(40, (20, 16)))
    captions = tmp_path / "captions.tsv"
    names = [line.partition("\t")[0] for line in captions.read_text().splitlines()]
    captions.write_text("".join(f"{name}\t{'ä' * (4 if i % 2 else 5)}\n" for i, name in enumerate(names)))
    data = ImageFolder(data_path=str(tmp_path / "images"), captions_file=str(captions), img_size=16)
    short = replace(LENGTH, updates=1)
    cut = sum(caption == "ä" * 5 for caption in data.train.captions())
    assert 0 < cut < len(data.train)
    (line,) = remarks(step, short, data, ByteTextEncoder(width=8, depth=0, max_length=8))
    assert line.startswith(f"{cut} of {len(data.train)} captions are longer than the 8 bytes")
    lone = Mixture({"a": data}, {"a": 1.0})
    lone.train.captions = lambda: ["ä" * 5, "ä"]  # type: ignore[method-assign]
    (line,) = remarks(step, short, lone, ByteTextEncoder(width=8, depth=0, max_length=8))
    assert line.startswith("1 of 2 captions is longer than the 8 bytes that the text encoder reads, and is cut there")
    assert remarks(step, short, data, ByteTextEncoder(width=8, depth=0, max_length=10)) == []
    mixed = Mixture({"a": data, "b": Shapes(img_size=16, n_images=8, n_validation=8)}, {"a": 1.0, "b": 1.0})
    assert mixed.train.captions() == data.train.captions()


@pytest.mark.parametrize("choice", ["best", "interpolated"])
def test_a_best_point_that_will_not_be_there_is_refused(choice: str) -> None:
    words = f"publish.weights={choice}"
    assert check(words) == []
    (line,) = check(words, stage="vae_gan")
    assert line.startswith(words)
    assert "adversarial" in line
    (line,) = check(words, "evaluation.every_epochs=null", stage="vae")
    assert line.startswith(words)
    assert "evaluation.every_epochs" in line


def test_another_choice_of_weights_is_refused() -> None:
    (line,) = check("publish.weights=newest")
    assert "last, best, interpolated" in line
