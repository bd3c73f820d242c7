"""Rules of early stopping that can never act."""

from pathlib import Path

import pytest

from fluxflow_exp.preflight.check import problems
from tests.conftest import toy


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (
            "{metric: val_psn, above: 1}",
            "metric='val_psn' is never logged in this step; did you mean 'val_psnr'? Logged: l1, mse, kl",
        ),
        ("{metric: g, below: 1}", "trainer.adversarial is off"),
        ("{metric: log_mse, below: 1}", "trainer.reconstruction.log_mse is off"),
        ("{metric: kl_floored, below: 1}", "trainer.kl.free_bits is off"),
        ("{metric: vae}", "needs below, above, patience or max_epochs"),
        ("{metric: vae, below: 1, above: 2}", "below or above, not both"),
        ("{metric: vae, patience: 0}", "patience must be at least 1"),
    ],
)
def test_a_rule_that_can_never_act_is_refused(tmp_path: Path, rule: str, expected: str) -> None:
    (found,) = problems(toy(tmp_path, f"stage.steps.vae.transition_on={rule}"))
    assert expected in found
