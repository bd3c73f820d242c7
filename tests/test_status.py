"""What becomes of runs, in lines: by the words that tell jobs of a sweep apart, else by their folders."""

from pathlib import Path

import pytest

from fluxflow_exp import status
from fluxflow_exp.run.folder import RunFolder


def shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The first word or words of each run's line."""
    assert status.main([str(folder)]) == 1
    head, *lines, count = capsys.readouterr().out.splitlines()
    assert head == str(folder)
    assert count.endswith("runs: 2 new")
    return [line.split("  ")[1] for line in lines]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["seed=0", "seed=1"], ["seed=0", "seed=1"]),
        (["name=a", "model.activation=silu"], ["a", "b"]),  # `b` is called as its stage
    ],
)
def test_jobs_of_a_sweep_are_shown_by_their_words_and_other_runs_by_their_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], names: list[str]
) -> None:
    for folder, word in zip(("a", "b"), words, strict=True):
        # A reaching word, so that nothing is composed to say whether it is stale.
        overrides = ["stage=vae", "hydra/launcher=slurm", word]
        RunFolder(tmp_path / folder).create({"stage": {"steps": {}}}, {"overrides": overrides})
    assert shown(tmp_path, capsys) == names
