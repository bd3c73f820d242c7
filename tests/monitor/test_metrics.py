"""What the names of metrics tell."""

import pytest

from fluxflow_exp.monitor.metrics import Metric, higher_is_better, named, unit


@pytest.mark.parametrize(
    ("metric", "higher"),
    [
        ("val_psnr", True), ("prompt_accuracy", True), ("prompt_accuracy_color", True), ("val_ssim", True),
        ("val_l1", False), ("val_flow", False), ("val_lpips", False), ("rfid_distance", False), ("val_beauty", None),
    ],
)  # fmt: skip
def test_which_direction_is_better(metric: str, higher: bool | None) -> None:
    assert higher_is_better(metric) is higher


@pytest.mark.parametrize(
    ("name", "expected"), [("val_psnr", "dB"), ("psnr", "dB"), ("kl", None), ("prompt_accuracy", None), ("fd@4", None)]
)
def test_the_unit_of_a_held_out_measure(name: str, expected: str | None) -> None:
    assert unit(name) == expected


def test_a_term_of_ones_own_goes_by_its_name() -> None:
    assert named("edges") == Metric("edges")
    assert named("edges").label == "edges"
    assert named("kl").label == "KL (nats a position)"
