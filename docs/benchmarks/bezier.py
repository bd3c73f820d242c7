"""The fused Bezier activation on a GPU: bandwidth, and speed against eager torch and torch.compile.

    python docs/benchmarks/bezier.py [--json FILE]

Six inputs that training meets, in bfloat16, channels last. Forward reads five numbers and writes one; backward reads
six and writes five; both are compared with a plain copy of 2 GiB timed in the same run. Errors are relative, in the L2
norm, against float64.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

from fluxflow_exp.models.bezier import _PRE, BezierActivation
from fluxflow_exp.models.bezier import bezier as curve

SIZES = {
    "fluxflow, last upsampling, 1024 px": (1, 640, 1024, 1024),
    "fluxflow, third upsampling, 1024 px": (2, 640, 512, 512),
    "fluxflow, first compression, 1024 px": (1, 200, 1024, 1024),
    "compact, first stage, 256 px, 32 images": (32, 120, 128, 128),
    "compact, third stage, 256 px, 32 images": (32, 320, 32, 32),
    "flow transformer, 256 x 256 tokens": (256, 1280, 16, 16),
}


def eager(x: Tensor) -> Tensor:
    t, *points = x.unflatten(1, (-1, 5)).unbind(2)
    return curve(torch.sigmoid(t), *(_PRE["silu"](p) for p in points))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    copy = copy_bandwidth()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}")
    print(f"copy: {copy / 1e9:.0f} GB/s")
    rows = [measure(name, shape, copy) for name, shape in SIZES.items()]
    if arguments.json:
        made_with = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__}
        arguments.json.write_text(json.dumps({**made_with, "copy_gbs": copy / 1e9, "rows": rows}, indent=1))


def copy_bandwidth() -> float:
    """Bytes read and written a second."""
    source = torch.randn(2**29, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / seconds(lambda: target.copy_(source))[0]


def seconds(call: Callable[[], Any]) -> tuple[float, float, float]:
    """Median, least and most of many calls; the L2 cache is emptied before each."""
    times = triton.testing.do_bench(call, warmup=30, rep=150, return_mode="all")
    return statistics.median(times) / 1000, min(times) / 1000, max(times) / 1000


def measure(name: str, shape: tuple[int, ...], copy: float) -> dict[str, Any]:
    x = torch.randn(shape, device="cuda", dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    grad = torch.randn(shape[0], shape[1] // 5, *shape[2:], device="cuda", dtype=torch.bfloat16)
    grad = grad.to(memory_format=torch.channels_last)
    bytes_of = {"forward": 6 * grad.numel() * 2, "backward": 11 * grad.numel() * 2}
    torch.compiler.reset()
    ways = {"kernel": BezierActivation(dim=1), "eager": eager, "compiled": torch.compile(eager, dynamic=False)}
    row: dict[str, Any] = {"name": name, "shape": shape, "errors": errors(x, grad)}
    for way, call in ways.items():
        with torch.no_grad():
            forward = seconds(lambda call=call: call(x))
        leaf = x.detach().requires_grad_()
        out = call(leaf)
        backward = seconds(lambda out=out, leaf=leaf: torch.autograd.grad(out, leaf, grad, retain_graph=True))
        row[way] = {"forward": forward, "backward": backward}
        del out
    row["share"] = {k: bytes_of[k] / row["kernel"][k][0] / copy for k in bytes_of}
    print(f"{name}: errors " + ", ".join(f"{k} {v:.1e}" for k, v in row["errors"].items()))
    for kind in ("forward", "backward"):
        mine, plain, compiled = (row[way][kind][0] for way in ("kernel", "eager", "compiled"))
        print(
            f"  {kind}: {mine * 1e6:.0f} us, {row['share'][kind]:.0%} of the copy; "
            f"eager {plain / mine:.1f} x, compiled {compiled / mine:.2f} x as long",
            flush=True,
        )
    return row


def errors(x: Tensor, grad: Tensor) -> dict[str, float]:
    """Relative errors against float64 on a part of the input."""
    x, grad = x[:1, :, :64, :64].detach().requires_grad_(), grad[:1, :, :64, :64]
    out = BezierActivation(dim=1)(x)
    (slope,) = torch.autograd.grad(out, x, grad)
    exact = x.detach().double().requires_grad_()
    expected = eager(exact)
    (expected_slope,) = torch.autograd.grad(expected, exact, grad.double())
    return {
        "forward": float((out.double() - expected).norm() / expected.norm()),
        "backward": float((slope.double() - expected_slope).norm() / expected_slope.norm()),
    }


if __name__ == "__main__":
    main()
