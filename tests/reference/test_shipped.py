"""The shipped curves: small, readable, and of configurations that are still here."""

import re
import shlex
from pathlib import Path

import pytest

from fluxflow_exp.config.compose import resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.reference import alike, curves

SCRIPT = (Path(__file__).parents[2] / "docs" / "benchmarks" / "styles.sh").read_text()
COMMAND = re.search(r"^python -m fluxflow_exp (.*)", SCRIPT, re.MULTILINE | re.DOTALL)
STYLES = [w for w in shlex.split(COMMAND[1].replace("\\\n", " ")) if "$" not in w]


def test_they_can_be_read_and_are_small():
    assert all(each.steps and len(each.seeds) >= curves.FEWEST_RUNS for each in curves.asked("shipped"))
    assert all(path.stat().st_size < 100_000 for path in curves.SHIPPED.glob("*.json"))
    assert curves.asked("off") == []


@pytest.mark.parametrize(
    ("stage", "words", "lengths"),
    [
        ("quickstart", [], {"vae": (64, 256, 768), "vae_gan": (64, 256, 256), "flow": (32, 512, 1536)}),
        ("vae_flow", STYLES, {"vae": (128, 95, 2850), "flow": (256, 47, 3572)}),
    ],
)
def test_a_command_is_like_its_own_curves(stage, words, lengths):
    """Where this fails, the configuration has changed: docs/how-to/on-track.md says how its curves are made anew."""
    values = resolve(compose_config(["tracking=off", *words]))
    planned = {
        step: {"batch_size": batch, "updates_per_epoch": epoch, "updates": updates}
        for step, (batch, epoch, updates) in lengths.items()
    }
    (reference,) = [each for each in curves.asked("shipped") if each.stage == stage]
    assert list(reference.steps) == list(lengths)
    for step, theirs in reference.steps.items():
        assert alike.unlike(alike.facts(values, {"planned": planned, "steps": {}}, step), theirs) == []
