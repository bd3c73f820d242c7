"""What long work says where there is no terminal."""

import pytest

from fluxflow_exp import console
from fluxflow_exp.console import Console


def test_work_off_a_terminal_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "LINE_SECONDS", 0.0)
    assert list(Console().track(range(4), "Writing", total=4)) == [0, 1, 2, 3]
    assert capsys.readouterr().out.splitlines() == ["Writing …", *(f"Writing: {done}%" for done in (25, 50, 75, 100))]


def test_short_work_off_a_terminal_takes_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(Console().track("ab", "Writing", total=2)) == ["a", "b"]
    assert capsys.readouterr().out.splitlines() == ["Writing …"]
