"""`python -m fluxflow_exp.benchmark OVERRIDES…`: how fast each step of a stage trains here, and what bounds it.

Nothing is kept of the training: parts start from fresh weights, and no run folder is written.
"""

import argparse
from pathlib import Path
from typing import Any

from fluxflow_exp import files
from fluxflow_exp.config.overrides import values_of
from fluxflow_exp.errors import UserError, counted
from fluxflow_exp.run import failures


def table(found: dict[str, Any], *, kernels: bool = False) -> str:
    matrix = f"; matrix product {found['matrix_tflops']:.4g} TFLOP/s" if found["matrix_tflops"] else ""
    lines = [f"{found['machine']}; torch {found['torch']}{matrix}"]
    for name, step in found["steps"].items():
        share = step["share_of_matrix_rate"]
        spread = f"{step['seconds']['least']:.4g} to {step['seconds']['most']:.4g}"
        lines += [
            f"Step {name}: {counted(step['batch_size'], 'image')} an update, {step['micro_batch']} at a time",
            f"  {step['seconds']['median']:.4g} s an update ({spread}), {step['images_per_second']:.4g} images/s",
            f"  {step['tflop']:.4g} TFLOP an update: {step['tflops']:.4g} TFLOP/s"
            + (f", {share:.0%} of the matrix product's" if share is not None else ""),
            f"  waiting for data: {step['data_wait']:.1%} of the time",
            f"  first update (whatever is compiled, is in it): {step['first_update_seconds']:.3g} s",
        ]
        lines += [
            f"  {k['seconds'] * 1000:9.3f} ms {k['calls']:6.0f} x {k['name'][:90]}" for k in step["kernels"] if kernels
        ]
        if step["peak_gib"] is None:
            lines.append("  memory, kernels and the host's waits: on a GPU only")
        else:
            lines.append(
                f"  peak memory {step['peak_gib']:.2f} GiB; the host waits {step['host_waits']:.3g} times an update"
            )
    return "\n".join(lines)


@failures.command
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fluxflow_exp.benchmark",
        description="Time each step of a stage (by default the quickstart's) here: seconds an update, TFLOP/s, waiting "
        "for data; on a GPU also memory and the host's waits. Below ten updates the figures are rough.",
        epilog="Example: python -m fluxflow_exp.benchmark stage=vae_gan model=compact hardware=h200 data.img_size=256",
    )
    parser.add_argument("overrides", nargs="*", help="as of the training command")
    parser.add_argument("--step", action="append", metavar="NAME", help="measure this step of the stage alone")
    parser.add_argument("--updates", type=int, default=20, help="updates that are timed (default 20)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    parser.add_argument("--kernels", action="store_true", help="list what the GPU spends its time on")
    options = parser.parse_intermixed_args(arguments)
    from fluxflow_exp.benchmark.measurement import measure  # torch, which --help does without
    from fluxflow_exp.preflight import check

    problems = [f"--updates must be at least 2, not {options.updates}"] if options.updates < 2 else []
    try:
        values = values_of([*options.overrides, "tracking=off"])
        problems += check.problems(values)
        found = measure(values, updates=options.updates, only=options.step) if not problems else {}
    except UserError as error:
        problems += error.args
    if problems:
        raise UserError(*problems)
    print(table(found, kernels=options.kernels))
    if options.json:
        files.write_json(options.json, {"overrides": options.overrides, **found})
    return 0
