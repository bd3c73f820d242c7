"""How long a card takes for operations, and what that costs: an estimate from the facts in conf/hardware.

Each operation takes as long as its arithmetic or its memory traffic, whichever is longer (Williams et al. 2009,
"Roofline"), and no update is faster than its operations can be launched.
"""

from collections.abc import Iterable, Sequence

from fluxflow_exp.config.schema import Hardware
from fluxflow_exp.plan.memory_meter import Operation

# Shares of a card's best rates that convolutions and matrix products of these models, and pointwise kernels, reach.
MATRIX_SHARE, BANDWIDTH_SHARE = 0.6, 0.8
# Of the half-precision rate: TF32 has half of it; float32 without tensor cores a fifteenth (67 of 989 on an H100).
FLOAT32_SHARE = {True: 1 / 2, False: 1 / 15}
LAUNCH_SECONDS = 6e-6  # from Python to the card, an operation


def seconds(operations: Sequence[Operation], hardware: Hardware) -> float | None:
    """None: `hardware` does not say how fast its card is."""
    taken = busy(operations, hardware)
    return None if taken is None else max(taken, len(operations) * LAUNCH_SECONDS)


def busy(operations: Iterable[Operation], hardware: Hardware) -> float | None:
    """Seconds that the card itself needs; None: `hardware` does not say how fast it is."""
    if hardware.bf16_tflops is None or hardware.memory_bandwidth_gbs is None:
        return None
    rate = hardware.bf16_tflops * 1e12 * MATRIX_SHARE
    if hardware.precision == "fp32":
        rate *= FLOAT32_SHARE[hardware.tf32]
    bandwidth = hardware.memory_bandwidth_gbs * 1e9 * BANDWIDTH_SHARE
    return sum(max(each.flops / rate, each.traffic / bandwidth) for each in operations)


def money(duration: float | None, hardware: Hardware, *, cards: int) -> float | None:
    """US dollars for `duration` seconds; None: the time or the price is not known."""
    if duration is None or hardware.price_per_hour is None:
        return None
    return duration / 3600 * hardware.price_per_hour * cards
