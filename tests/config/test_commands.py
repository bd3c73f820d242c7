"""The list of commands, and what is said to somebody who calls one as an override."""

import re
from pathlib import Path

import pytest

import fluxflow_exp
from fluxflow_exp.config.commands import COMMANDS, listed, meant

PACKAGE = Path(fluxflow_exp.__file__).parent


def test_every_module_that_can_be_run_is_listed_once() -> None:
    found = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__main__")
        for path in PACKAGE.rglob("*.py")
        if '__name__ == "__main__"' in path.read_text()
    }
    assert found - {"main"} == set(COMMANDS)
    assert all(len(line) <= 80 for line in listed().splitlines())


@pytest.mark.parametrize(
    ("typed", "command"),
    [
        (["status"], "python -m fluxflow_exp.status"),
        (["study=toy"], "python -m fluxflow_exp.study toy"),
        (["-m", "data.n_images=64", "+study=toy"], "python -m fluxflow_exp.study toy data.n_images=64"),
        (["status", "outputs/a b"], "python -m fluxflow_exp.status 'outputs/a b'"),
        (["evalute", "outputs/vae"], "python -m fluxflow_exp.evaluate outputs/vae"),
        (["pack", "in"], "python -m fluxflow_exp.data.pack in"),
    ],
)
def test_a_commands_name_is_answered_with_its_spelling(typed: list[str], command: str) -> None:
    answer = meant(typed)
    assert answer is not None
    assert re.search(rf"^  {re.escape(command)}$", answer, re.MULTILINE)


@pytest.mark.parametrize("typed", [[], ["stage=vae"], ["-m", "status"], ["nonsense here"], ["~stage.steps.flow"]])
def test_overrides_and_other_words_are_left_to_the_check_of_overrides(typed: list[str]) -> None:
    assert meant(typed) is None
