"""The fused Bezier activation on a GPU: bandwidth, and speed against eager torch and torch.compile.

    python docs/benchmarks/bezier.py [--json FILE]

Six inputs that training meets, in bfloat16, channels last. Forward reads five numbers and writes one; backward reads
six and writes five; both are compared with a plain copy that moves as many bytes, timed in the same run and in the same
way: replays of a CUDA graph of ten calls, the L2 cache overwritten before each, less the same graph without the calls.
Errors are relative, in the L2 norm, against float64.
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

CALLS, REPLAYS = 10, 7
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
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}")
    with torch.cuda.stream(torch.cuda.Stream()):
        rows = [measure(name, shape) for name, shape in SIZES.items()]
    if arguments.json:
        made_with = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__}
        arguments.json.write_text(json.dumps({**made_with, "rows": rows}, indent=1))


def copy_seconds(count: int) -> float:
    """Seconds of a copy that moves `count` bytes, reads and writes together."""
    source = torch.randn(count // 8, device="cuda")
    target = torch.empty_like(source)
    # A kernel that copies and negates: a graph would leave a plain copy to the slower copy engine.
    return seconds(lambda: torch.neg(source, out=target))[0]


def seconds(call: Callable[[], Any]) -> tuple[float, float, float]:
    """Median, least and most seconds of a call."""
    for _ in range(3):
        call()
    scratch = torch.empty(2**28, device="cuda", dtype=torch.uint8)
    times = [graph_seconds(each, scratch) for each in (call, lambda: None)]
    differences = sorted((a - b) / CALLS for a, b in zip(*times, strict=True))
    return statistics.median(differences), differences[0], differences[-1]


def graph_seconds(call: Callable[[], Any], scratch: Tensor) -> list[float]:
    """Seconds of each replay of CALLS calls."""
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        for _ in range(CALLS):
            scratch.zero_()
            call()
    times = []
    for _ in range(REPLAYS + 1):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return times[1:]


def measure(name: str, shape: tuple[int, ...]) -> dict[str, Any]:
    x = torch.randn(shape, device="cuda", dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    grad = torch.randn(shape[0], shape[1] // 5, *shape[2:], device="cuda", dtype=torch.bfloat16)
    grad = grad.to(memory_format=torch.channels_last)
    bias = torch.randn(shape[1], device="cuda")
    bytes_of = {"forward": 6 * grad.numel() * 2, "backward": 11 * grad.numel() * 2}
    torch.compiler.reset()
    ways = {
        "kernel": BezierActivation(dim=1),
        "with bias": lambda x: BezierActivation(dim=1)(x, bias),
        "eager": eager,
        "compiled": torch.compile(eager, dynamic=False),
    }
    row: dict[str, Any] = {"name": name, "shape": shape, "errors": errors(x, grad)}
    for way, call in ways.items():
        with torch.no_grad():
            forward = seconds(lambda call=call: call(x))
        leaf = x.detach().requires_grad_()
        out = call(leaf)
        backward = seconds(lambda out=out, leaf=leaf: torch.autograd.grad(out, leaf, grad, retain_graph=True))
        row[way] = {"forward": forward, "backward": backward}
        del out
    copies = {k: copy_seconds(count) for k, count in bytes_of.items()}
    row["copy_gbs"] = {k: bytes_of[k] / copies[k] / 1e9 for k in copies}
    row["share"] = {k: copies[k] / row["kernel"][k][0] for k in copies}
    print(f"{name}: errors " + ", ".join(f"{k} {v:.1e}" for k, v in row["errors"].items()))
    for kind in ("forward", "backward"):
        mine, plain, compiled = (row[way][kind][0] for way in ("kernel", "eager", "compiled"))
        print(
            f"  {kind}: {mine * 1e6:.0f} us, {row['share'][kind]:.0%} of the copy; "
            f"adding a bias {row['with bias'][kind][0] / mine:.2f} x, "
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
