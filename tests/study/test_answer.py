"""study.json: both ways, and refused in one sentence where it is damaged."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fluxflow_exp.errors import UserError
from fluxflow_exp.study import answer
from tests.helpers.answers import made_answer, pictured


def test_an_answer_comes_back_as_it_was_written(tmp_path: Path) -> None:
    made = pictured(tmp_path, made_answer())
    answer.write(made, tmp_path / "study.json")
    assert answer.read(tmp_path / "study.json") == made


DAMAGE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "lacks": (lambda found: found["arms"][1].pop("name"), "arms.1.name"),
    "type": (lambda found: found.update(question=3), "question"),
    "not finite": (lambda found: found["outcomes"][0]["differences"][0].update(mean=math.nan), "finite"),
    "one arm": (lambda found: found.update(arms=found["arms"][:1]), "two or more"),
    "unknown arm": (lambda found: found["curves"][0]["lines"][0].update(arm="gelu"), "no arm 'gelu'"),
    "ragged": (lambda found: found["curves"][0]["lines"][0]["mean"].pop(), "not as many"),
    "half an interval": (lambda found: found["outcomes"][0]["differences"][0].update(low=None), "two ends"),
    "itself": (lambda found: found["outcomes"][0]["differences"][0].update(arm="silu"), "reference"),
    "outside": (lambda found: found["pictures"]["rows"][0]["files"].update(silu="../secret.webp"), "below"),
    "format": (lambda found: found.update(format=2), "format 2"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_one_clear_error(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    answer.write(pictured(tmp_path, made_answer()), path)
    found = json.loads(path.read_text())
    change, said = DAMAGE[kind]
    change(found)
    path.write_text(json.dumps(found))
    with pytest.raises(UserError) as caught:
        answer.read(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_torn_file_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    answer.write(made_answer(), path)
    path.write_text(path.read_text()[:200])
    with pytest.raises(UserError, match="cannot be read"):
        answer.read(path)
