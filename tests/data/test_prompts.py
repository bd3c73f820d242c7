"""Prompts from files, and what images that are made of them are called."""

from pathlib import Path

import pytest

from fluxflow_exp.data.prompts import read_prompts
from fluxflow_exp.errors import UserError


def test_a_folder_of_prompts_names_images_after_its_files(tmp_path: Path) -> None:
    for name in ("sunset", "circle"):
        (tmp_path / f"{name}.txt").write_text(f"a {name}\n")
    assert [tuple(p) for p in read_prompts(tmp_path)] == [("circle", "a circle"), ("sunset", "a sunset")]


def test_prompts_are_lines_of_whole_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A byte order mark is none of it, and only line feeds separate."""
    lines = ["a red\u2028kite", "a\x0bboat\x85", "one\ttwo\rthree"]
    (tmp_path / "lines.txt").write_bytes(("\ufeff" + "\r\n".join(lines) + "\n\n").encode())
    assert [prompt.text for prompt in read_prompts(tmp_path / "lines.txt")] == [line.strip() for line in lines]
    folder = tmp_path / "folder"
    (folder / "x.txt").mkdir(parents=True)
    (folder / "y.txt").write_bytes("\ufeffa kite\r\nin two lines\n".encode())
    (folder / "z.txt").symlink_to("nowhere")
    assert [tuple(p) for p in read_prompts(folder)] == [("y", "a kite\nin two lines")]
    assert capsys.readouterr().err == "left out: x.txt is no file\nleft out: z.txt is no file\n"
    (folder / "y.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"y\.txt cannot be read as UTF-8 text"):
        read_prompts(folder)
