"""Copies and sums around the matrix products of convolutions' gradients, as Triton kernels: `windows`' on a GPU."""

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

PIXELS, CHANNELS = 64, 128  # of a program, at most


@triton.jit
def _windows_kernel(  # type: ignore[no-untyped-def]
    image_ptr,
    taps_ptr,
    out_ptr,
    height,
    width,
    channels,
    row_stride,
    pixel_stride,
    across,
    count,
    tap_count,
    STEP: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    # Programs of the same pixels follow each other, so that they find in the cache what they share.
    pieces = tl.cdiv(channels, CHANNELS)
    program = tl.program_id(0)
    piece, tap, block = program % pieces, program // pieces % tap_count, program // (pieces * tap_count)
    pixel = block * PIXELS + tl.arange(0, PIXELS)
    channel = piece * CHANNELS + tl.arange(0, CHANNELS)
    y = pixel // across * STEP + tl.load(taps_ptr + 2 * tap)
    x = pixel % across * STEP + tl.load(taps_ptr + 2 * tap + 1)
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width) & (pixel < count)
    there = channel < channels
    at = y.to(tl.int64) * row_stride + x.to(tl.int64) * pixel_stride
    values = tl.load(image_ptr + at[:, None] + channel[None, :], inside[:, None] & there[None, :], 0.0)
    to = (pixel.to(tl.int64) * tap_count + tap) * channels
    tl.store(out_ptr + to[:, None] + channel[None, :], values, (pixel < count)[:, None] & there[None, :])


@triton.jit
def _add_moved_kernel(  # type: ignore[no-untyped-def]
    total_ptr,
    made_ptr,
    width,
    across,
    channels,
    count,
    TAPS: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    pieces = tl.cdiv(channels, CHANNELS)
    piece, block = tl.program_id(0) % pieces, tl.program_id(0) // pieces
    pixel = block * PIXELS + tl.arange(0, PIXELS)
    channel = piece * CHANNELS + tl.arange(0, CHANNELS)
    mask = (pixel < count)[:, None] & (channel < channels)[None, :]
    at = pixel.to(tl.int64)[:, None] * channels + channel[None, :]
    total = tl.load(total_ptr + at, mask, 0.0)
    row = (pixel // width * across + pixel % width).to(tl.int64)
    for tap in tl.static_range(TAPS):
        place = ((row + tap) * TAPS + tap) * channels
        total += tl.load(made_ptr + place[:, None] + channel[None, :], mask, 0.0).to(total.dtype)
    tl.store(total_ptr + at, total, mask)


@cache
def _places(taps: tuple[int, ...], device: torch.device) -> Tensor:
    """Kept on the device: a CUDA graph must not copy them from a place on the host that is soon used otherwise."""
    return torch.tensor(taps, dtype=torch.int32).to(device)


@torch.library.custom_op("fluxflow::windows", mutates_args={})
def windows(image: Tensor, taps: list[int], step: int, height: int, width: int) -> Tensor:
    """As `windows.windows`, with the taps' (y, x) one after the other; channels of `image` must be innermost."""
    channels, count = image.shape[0], len(taps) // 2
    out = image.new_empty(height * width, count * channels)
    places = _places(tuple(taps), image.device)
    most = min(CHANNELS, triton.next_power_of_2(channels))
    programs = triton.cdiv(height * width, PIXELS) * count * triton.cdiv(channels, most)
    _windows_kernel[(programs,)](
        image,
        places,
        out,
        image.shape[1],
        image.shape[2],
        channels,
        image.stride(1),
        image.stride(2),
        width,
        height * width,
        count,
        STEP=step,
        PIXELS=PIXELS,
        CHANNELS=most,
    )
    return out


@torch.library.custom_op("fluxflow::add_moved", mutates_args={"total"})
def add_moved(total: Tensor, made: Tensor, taps: int) -> None:
    """As `windows.add_moved`."""
    height, width, channels = total.shape
    most = min(CHANNELS, triton.next_power_of_2(channels))
    programs = triton.cdiv(height * width, PIXELS // 2) * triton.cdiv(channels, most)
    _add_moved_kernel[(programs,)](
        total,
        made,
        width,
        width + taps - 1,
        channels,
        height * width,
        TAPS=taps,
        PIXELS=PIXELS // 2,
        CHANNELS=most,
    )


@windows.register_fake
def _(image: Tensor, taps: list[int], step: int, height: int, width: int) -> Tensor:
    return image.new_empty(height * width, len(taps) // 2 * image.shape[0])


@add_moved.register_fake
def _(total: Tensor, made: Tensor, taps: int) -> None:
    return None
