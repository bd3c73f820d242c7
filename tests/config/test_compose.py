"""From resolved values to the dataclasses of the frame."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from fluxflow_exp.config.compose import laid_over_frame, typed
from fluxflow_exp.errors import UserError
from tests.conftest import toy


def test_values_that_were_merged_before_share_nothing_with_what_is_filled(tmp_path: Path) -> None:
    values = toy(tmp_path)
    first, second = typed(values), typed(values)
    assert first == second
    assert laid_over_frame(values) is laid_over_frame(values)  # merged once
    first.stage.steps["vae"].n_epochs = 99
    first.model.compressor["widths"].append(1)
    assert typed(values) == second


def test_values_that_differ_are_merged_anew(tmp_path: Path) -> None:
    values = toy(tmp_path)
    before = typed(values).hardware.threads
    values["hardware"]["threads"] = 7
    values["data"]["of mine"] = {1: True, "1": 1.0}
    assert (before, typed(values).hardware.threads) == (1, 7)
    assert typed(values).data["of mine"] == {1: True, "1": 1.0}
    assert OmegaConf.is_config(laid_over_frame(values))


def test_values_of_another_version_are_one_error_each_time(tmp_path: Path) -> None:
    values = toy(tmp_path)
    values["hardware"]["turbo"] = True
    for _ in range(2):
        with pytest.raises(UserError, match=r"^the configuration does not fit this version: .*\(hardware\.turbo\)$"):
            typed(values)
