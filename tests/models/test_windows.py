"""Windows and moved sums against loops, and the kernels against the plain functions: on a GPU or interpreted."""

import pytest
import torch
from torch import Tensor

from fluxflow_exp.models.windows import add_moved, windows
from tests.helpers.interpreted import by_the_parent, on_each_device, passes_interpreted, with_triton

TAPS = [(-1, 0), (0, 2), (3, -2)]
SHAPES = [(1, 1, 1), (5, 4, 7), (16, 9, 3), (130, 6, 5)]


@pytest.mark.slow
@by_the_parent
@with_triton
def test_the_kernels_pass_these_tests_through_the_interpreter() -> None:
    passes_interpreted(__file__)


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_windows_are_the_pixels_at_the_taps(shape: tuple[int, int, int], step: int) -> None:
    image = torch.randn(shape)
    channels, height, width = shape
    found = windows(image, TAPS, size=(5, 4), step=step).view(5, 4, len(TAPS), channels)
    for y in range(5):
        for x in range(4):
            for tap, (down, right) in enumerate(TAPS):
                row, column = step * y + down, step * x + right
                inside = 0 <= row < height and 0 <= column < width
                wanted = image[:, row, column] if inside else torch.zeros(channels)
                assert torch.equal(found[y, x, tap], wanted)


def test_moved_sums_are_those_of_a_loop() -> None:
    height, width, channels, taps = 3, 4, 2, 3
    made = torch.randn(height, width + taps - 1, taps, channels, dtype=torch.float64)
    total = torch.randn(height, width, channels, dtype=torch.float64)
    wanted = total + sum(made[:, b : b + width, b] for b in range(taps))
    add_moved(total, made.view(-1, taps * channels), taps)
    torch.testing.assert_close(total, wanted)


@on_each_device
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_kernel_copies_what_the_plain_function_does(
    shape: tuple[int, int, int], step: int, precision: torch.dtype, device: str
) -> None:
    image = torch.randn(shape).to(precision)
    last = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    wanted = windows(image, TAPS, size=(13, 6), step=step)
    assert torch.equal(kernel_windows(last.to(device), step).cpu(), wanted)


@on_each_device
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("height", "width", "channels", "taps"), [(1, 1, 1, 1), (7, 9, 5, 3), (12, 11, 144, 8)])
def test_the_kernel_sums_what_the_plain_function_does(
    height: int, width: int, channels: int, taps: int, precision: torch.dtype, device: str
) -> None:
    from fluxflow_exp.models import windows_triton

    made = torch.randn(height * (width + taps - 1), taps * channels).to(precision)
    total = torch.randn(height, width, channels)
    found = total.to(device, copy=True)
    windows_triton.add_moved(found, made.to(device), taps)
    add_moved(total, made, taps)
    torch.testing.assert_close(found.cpu(), total, rtol=1e-5, atol=1e-5)


def kernel_windows(image: Tensor, step: int) -> Tensor:
    from fluxflow_exp.models import windows_triton

    found: Tensor = windows_triton.windows(image, [at for tap in TAPS for at in tap], step, 13, 6)
    return found
