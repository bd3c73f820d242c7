"""A run goes on with the numbers that it began with, and so does one that is extended."""

from pathlib import Path

from fluxflow_exp.run import opening
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.kept_numbers import kept
from tests.conftest import toy


def test_numbers_of_the_run_stand_where_none_are_asked_for() -> None:
    asked = {"log_every": "auto", "samples": {"every_epochs": "auto", "count": 8}, "evaluation": {"every_epochs": 3}}
    there = {"log_every": 7, "samples": {"every_epochs": None, "count": 2}, "evaluation": {"every_epochs": 1}}
    found = kept(asked, there)
    assert found == {**asked, "log_every": 7, "samples": {"every_epochs": None, "count": 8}}
    assert asked["log_every"] == asked["samples"]["every_epochs"] == "auto"
    assert kept(asked, {"samples": {}}) == asked  # of a version that had no such keys


def test_an_extended_run_keeps_them(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "vae")
    opening.create(folder, toy(tmp_path, "evaluation.every_epochs=5", stage="vae"), [])
    longer = toy(tmp_path, "evaluation.every_epochs=auto", "samples.every_epochs=2", "resume=extend", stage="vae")
    opening.extend(folder, folder.read_record(), longer, [])
    frozen = folder.frozen()
    assert (frozen["evaluation"]["every_epochs"], frozen["samples"]["every_epochs"]) == (5, 2)
