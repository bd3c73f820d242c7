"""Words that cannot be composed keep no other mistake from being told, and make up none."""

from pathlib import Path

import pytest

from fluxflow_exp.preflight import words

OUT_OF_RANGE = "evaluation.images must be at least 1, not -1"
NO_NUMBER = "seed=x: Value 'x' of type 'str' could not be converted to Integer"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], []),
        (["evaluation.images=-1"], [OUT_OF_RANGE]),
        (["seed=x", "evaluation.images=-1"], [NO_NUMBER, OUT_OF_RANGE]),
        (["seed=x", "evaluation.images=-1", "resume=nope"], [NO_NUMBER, OUT_OF_RANGE, "resume is one of "]),
        # A mistyped key may have been what the others lack.
        (["data=image_folder", "data.data_pth=photos"], ["data.data_pth=photos: there is no key"]),
        (["seed=x", "stage=nope", "evaluation.images=-1"], ["stage=nope: there is no stage", NO_NUMBER]),
    ],
)
def test_mistakes_are_told_together(tmp_path: Path, given: list[str], told: list[str]) -> None:
    found = words.problems([*given, f"output_root={tmp_path}"], here=True)
    assert len(found) == len(told)
    assert all(line.startswith(start) for line, start in zip(sorted(found), sorted(told), strict=True)), found
