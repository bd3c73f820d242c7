"""What a picture says of itself: the text, and that each format gives it back."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from fluxflow_exp.models.infotext import FORMATS, JPEG_LIMIT, infotext, length_problem, options
from tests.helpers.infotexts import read_back

PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')  # how readers take the last line apart


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("text", ["plain", "\u00fc", 'a "b", c: d\nzwei\r\tund \U0001f388', "\u65e5\u672c" * 9_000])
def test_a_text_comes_back_from_each_format(form: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{form}"
    Image.new("RGB", (8, 8), "red").save(path, **options(form, text))
    assert read_back(path) == text


def test_values_that_hold_separators_are_quoted_as_readers_expect() -> None:
    values = {"Steps": 3, "Model": 'a, "b": c\nd.safetensors', "Sampler": "ab2"}
    text = infotext("a, b\nc", "no: d", values)
    *lines, last = text.split("\n")
    assert lines == ["a, b", "c", "Negative prompt: no: d"]
    found = {name: json.loads(value) if value[0] == '"' else value for name, value in PAIR.findall(last)}
    assert found == {name: str(value) for name, value in values.items()}
    assert infotext("a", "", {"Steps": 3, "Seed": 0}) == "a\nSteps: 3, Seed: 0"


def test_what_a_jpeg_cannot_hold_is_said(tmp_path: Path) -> None:
    longest = "x" * (JPEG_LIMIT // 2)
    assert length_problem("jpg", longest) is None
    Image.new("RGB", (8, 8)).save(tmp_path / "x.jpg", **options("jpg", longest + "y" * 1_500))  # and the parameters
    assert length_problem("jpg", longest, "y") == "the metadata of a jpg hold 31,000 characters of prompts, not 31,001"
    assert length_problem("png", longest, "y") is None
