"""The files of an answer: the same facts in all of them, and nothing that could become markup."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from fluxflow_exp.errors import UserError
from fluxflow_exp.study import answer, output
from tests.helpers.answers import difference, made_answer, pictured
from tests.helpers.carded import HOSTILE


def test_all_files_are_written_and_the_markdown_shows_what_stands_beside_it(tmp_path: Path) -> None:
    made = pictured(tmp_path, made_answer())
    page, markdown, numbers = output.write(made, tmp_path)
    assert answer.read(numbers) == made
    text = markdown.read_text()
    shown = [part.partition(")")[0] for part in text.split("](")[1:]]
    assert {"pictures/forest.png", "pictures/curves.png", "pictures/bezier-1.webp"} <= set(shown)
    for name in shown:
        with Image.open(tmp_path / name) as image:
            image.load()
    sentence = "bezier is better than silu: PSNR is 0.50 dB higher (95 % interval 0.20 to 0.80, 3 paired seeds)."
    assert sentence in text
    assert sentence in page.read_text()
    for row in (
        "| bezier | 21.00 | +0.50 dB | 0.20 to 0.80 dB | 3 paired seeds | shown better |",
        "| bezier | `model.activation=bezier` | 4.09 M | 6 | 0 | 2.8 | 44 |",
        "| bezier | 0.0003 | 0.0001: 0.52; 0.0003: 0.49; 0.001: failed | Flow loss | held-out images, seed 100 |",
    ):
        assert row in text
    assert "python -m fluxflow_exp.study activation" in text


@pytest.mark.parametrize("low", [None, -0.1])
def test_a_bare_answer_is_drawn_as_well(tmp_path: Path, low: float | None) -> None:
    made = made_answer(difference(low, None if low is None else 0.4), curves=[], notes=[])
    bare = replace(made, outcomes=[replace(made.deciding, values={}, differences=made.deciding.differences[:1])])
    page, markdown, _ = output.write(bare, tmp_path)
    assert "curves.png" not in markdown.read_text()
    assert 'id="pictures"' not in page.read_text()
    assert "relu has no value of PSNR" in page.read_text()


def test_texts_of_a_study_are_no_markup(tmp_path: Path) -> None:
    page, markdown, _ = output.write(made_answer(question=HOSTILE, notes=[f"a | b\n{HOSTILE}"]), tmp_path)
    assert "<script>alert" not in page.read_text()
    assert "<script>" not in markdown.read_text().replace("\\<", "")


def test_a_picture_that_is_gone_is_named(tmp_path: Path) -> None:
    made = pictured(tmp_path, made_answer())
    (tmp_path / "pictures" / "silu-0.webp").unlink()
    with pytest.raises(UserError, match=r"silu-0.webp is missing or damaged"):
        output.write(made, tmp_path)
