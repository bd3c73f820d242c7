"""What several runs differ in."""

from pathlib import Path

from fluxflow_exp.report import facts
from fluxflow_exp.report.comparison import differing
from tests.helpers.carded import make_carded


def test_of_a_step_that_a_run_does_not_have_one_key_tells(tmp_path: Path) -> None:
    runs = {
        "whole": [],
        "short": ["~stage.steps.vae_gan"],
        "other": ["stage.steps.vae_gan.batch_size=4", "stage.steps.vae.batch_size=2"],
    }
    cards = {name: facts.read(make_carded(tmp_path, name, *words)) for name, words in runs.items()}
    keys, following = differing([cards["whole"], cards["short"]])
    assert keys == ["stage.steps.vae_gan.description"]
    assert following == {}
    keys, _ = differing(list(cards.values()))
    steps = [f"stage.steps.{key}" for key in ("vae.batch_size", "vae_gan.batch_size", "vae_gan.description")]
    assert sorted(keys) == steps
