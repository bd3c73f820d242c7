"""docs/benchmarks/styles_grid.py: which cells are shown, and what stands beside what."""

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[1] / "docs" / "benchmarks" / "styles_grid.py"


def test_every_other_cell_stands_beside_what_its_caption_gave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    for number in range(20):
        Image.new("RGB", (8, 8), (10 * number, 0, 0)).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "held_out.tsv").write_text("".join(f"{n}.png\tthing {n}\n" for n in range(20)))
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    script = importlib.import_module(SCRIPT.stem)

    def draw(captions: list[str], **_: Any) -> list[Image.Image]:
        return [Image.new("RGB", (4, 4), (0, 10 * int(caption.split()[1]), 0)) for caption in captions]

    monkeypatch.setattr(script, "TextToImage", SimpleNamespace(load=lambda *_, **__: draw))
    script.main(["weights", str(tmp_path), str(tmp_path / "grid.png"), "--count", "10"])
    grid = Image.open(tmp_path / "grid.png")
    assert grid.size == (2 * 8 * 6 + 2, 2 * 6 + 2)
    assert (grid.getpixel((3, 3)), grid.getpixel((9, 3))) == ((0, 0, 0), (0, 0, 0))
    assert (grid.getpixel((15, 3)), grid.getpixel((21, 3))) == ((20, 0, 0), (0, 20, 0))
    assert (grid.getpixel((15, 9)), grid.getpixel((21, 9))) == ((180, 0, 0), (0, 180, 0))
    assert capsys.readouterr().out.splitlines()[-1] == "row 2, pair 2: thing 18"
