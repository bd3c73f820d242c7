"""Seconds and prices against arithmetic by hand."""

from dataclasses import replace

import pytest

from fluxflow_exp.config.schema import Hardware
from fluxflow_exp.plan.memory_meter import Operation
from fluxflow_exp.plan.roofline import BANDWIDTH_SHARE, LAUNCH_SECONDS, MATRIX_SHARE, busy, money, seconds

CARD = Hardware(precision="bf16", bf16_tflops=1000.0, memory_bandwidth_gbs=4000.0, price_per_hour=3.0)
MATRIX, COPY = Operation(6 * 10**14, 8), Operation(0, 32 * 10**11)  # a second each at the shares of a card's best


def test_an_operation_takes_as_long_as_its_arithmetic_or_its_memory() -> None:
    assert (MATRIX_SHARE, BANDWIDTH_SHARE) == (0.6, 0.8)
    assert busy([MATRIX, COPY, Operation(MATRIX.flops, COPY.traffic)], CARD) == pytest.approx(3.0)


def test_tf32_has_half_the_rate_and_float32_a_fifteenth() -> None:
    single = replace(CARD, precision="fp32")
    assert busy([MATRIX, COPY], single) == pytest.approx(2.0 + 1.0)
    assert busy([MATRIX, COPY], replace(single, tf32=False)) == pytest.approx(15.0 + 1.0)


def test_no_update_is_faster_than_its_operations_are_launched() -> None:
    assert seconds([Operation(1, 1)] * 1000, CARD) == pytest.approx(1000 * LAUNCH_SECONDS)
    assert seconds([MATRIX], CARD) == busy([MATRIX], CARD)


def test_an_unknown_card_has_no_time_and_an_unknown_price_no_money() -> None:
    assert seconds([MATRIX], replace(CARD, bf16_tflops=None)) is None
    assert busy([MATRIX], replace(CARD, memory_bandwidth_gbs=None)) is None
    assert money(1800.0, CARD, cards=4) == pytest.approx(6.0)
    assert money(None, CARD, cards=1) is money(1.0, replace(CARD, price_per_hour=None), cards=1) is None
