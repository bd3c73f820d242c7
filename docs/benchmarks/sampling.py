"""How few evaluations of the network do: samplers, steps, guidance and its interval, judged by held-out pictures.

    python docs/benchmarks/sampling.py RUN/weights/final.safetensors data/styles/held_out.tsv data/styles/images \
        --json OUT.json --picture OUT.png

One picture for each prompt and configuration; Fréchet distance from the held-out pictures and retrieval of them, in the
features that `evaluate` takes by default, which of the real pictures are made once. Evaluations are counted as the
network is called, for one picture: guidance makes two of a step. Heun gets half of the --steps, since each costs two.
Seconds are those of all pictures, decoded. --json is written after each configuration; --draw makes the picture of
such a file again.
"""

import argparse
import json
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fluxflow_exp.data.captions import lines_of
from fluxflow_exp.data.transforms import open_rgb, square
from fluxflow_exp.evaluation import sets
from fluxflow_exp.evaluation.features import load
from fluxflow_exp.evaluation.measures import EFFICIENTNET
from fluxflow_exp.files import write_json
from fluxflow_exp.models.text_to_image import TextToImage
from fluxflow_exp.samplers import SAMPLERS

MEASURES = ["fd", "retrieval_1", "retrieval_5"]
COLOURS = {"euler": "#b5482a", "heun": "#777777", "ab2": "#0b6e4f"}
LINES = ("-", "--", ":", "-.")
REFERENCE = 50  # steps of Euler, without an interval
Row = dict[str, Any]


def main() -> None:
    options = parser().parse_args()
    if not (options.draw or options.images):
        parser().error("WEIGHTS, CAPTIONS and IMAGES, or --draw JSON")
    found = json.loads(options.draw.read_text()) if options.draw else measure(options)
    for line in verdicts(found["rows"]):
        print(line)
    if options.picture:
        draw(found["rows"], options.picture)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add("weights", type=Path, nargs="?", help="final.safetensors of a run")
    add("captions", type=Path, nargs="?", help="lines of NAME<TAB>CAPTION of held-out pictures")
    add("images", type=Path, nargs="?", help="folder of these")
    add("--samplers", nargs="+", choices=list(SAMPLERS), default=list(SAMPLERS))
    add("--steps", nargs="+", type=int, default=[6, 8, 10, 12, 16, 20, 30, 50])
    add("--guidance", nargs="+", type=float, default=[2.0, 3.0])
    add(
        "--interval", nargs=2, type=float, action="append", metavar=("LOW", "HIGH"), help="beside none; may be repeated"
    )
    add("--shift", nargs="+", type=float, help="of the sampler's times (default: that of training)")
    add("--seeds", nargs="+", type=int, default=[0])
    add("--batch", type=int, default=256)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--json", type=Path)
    add("--picture", type=Path)
    add("--draw", type=Path, metavar="JSON", help="measure nothing")
    return made


def measure(options: argparse.Namespace) -> Row:
    device = torch.device(options.device)
    model = TextToImage.load(options.weights, device=device)
    names, prompts = zip(*(line.split("\t") for line in lines_of(options.captions) if line), strict=True)
    network = load(EFFICIENTNET).to(device)
    with ThreadPoolExecutor() as pool:
        pictures = pool.map(lambda name: square(open_rgb(options.images / name), model.img_size), names)
        real = network(torch.stack(list(pictures)))
    facts = {
        "weights": str(options.weights),
        "pictures": len(prompts),
        "features": network.record,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "torch": torch.__version__,
    }
    draw_pictures(model, prompts[: options.batch], {"steps": 1, "guidance_scale": 2.0}, options)  # warms up
    pending: list[tuple[Row, Future[Row]]] = []
    done: list[Row] = []
    with ThreadPoolExecutor(8) as pool:  # distances are the CPU's, while the GPU draws on

        def keep(*, at_most: int) -> None:
            while len(pending) > at_most:
                row, values = pending.pop(0)
                done.append({**row, **values.result()})
                print(said(done[-1]), flush=True)
                if options.json:
                    write_json(options.json, {**facts, "rows": done})

        for settings in configurations(options):
            images, row = draw_pictures(model, prompts, settings, options)
            pending.append((row, pool.submit(judged, real, network(images), list(prompts))))
            keep(at_most=8)
        keep(at_most=0)
    return {**facts, "rows": done}


def judged(real: Tensor, fake: Tensor, prompts: list[str]) -> Row:
    return sets.compared(MEASURES, real, fake, captions=prompts, prompts=prompts)


def configurations(options: argparse.Namespace) -> Iterator[Row]:
    intervals = [None, *(options.interval or [])]
    for seed, guidance, interval, shift, sampler, steps in product(
        options.seeds, options.guidance, intervals, options.shift or [None], options.samplers, options.steps
    ):
        if guidance == 1 and interval is not None:
            continue
        yield {
            "sampler": sampler, "steps": max(steps // 2, 1) if sampler == "heun" else steps, "seed": seed,
            "guidance_scale": guidance, "guidance_interval": interval, "shift": shift,
        }  # fmt: skip


def draw_pictures(
    model: TextToImage, prompts: tuple[str, ...], settings: Row, options: argparse.Namespace
) -> tuple[Tensor, Row]:
    """Return pictures, uint8 (prompts, 3, height, width), and the settings with what the pictures cost."""
    rows = []
    handle = model.flow_processor.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    wait(options.device)
    started = time.perf_counter()
    with torch.autocast(torch.device(options.device).type, torch.bfloat16):
        images = torch.cat(list(model.generate(list(prompts), batch_size=options.batch, **settings)))
    wait(options.device)
    seconds = time.perf_counter() - started
    handle.remove()
    return images, {**settings, "evaluations": sum(rows) // len(prompts), "seconds": round(seconds, 3)}


def wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def said(row: Row) -> str:
    where = "" if row["guidance_interval"] is None else " in {:g} to {:g}".format(*row["guidance_interval"])
    shift = "" if row["shift"] is None else f", shift {row['shift']:g}"
    return (
        f"{row['sampler']:5} {row['steps']:3} steps, guidance {row['guidance_scale']:g}{where}{shift}: "
        f"{row['evaluations']:3} evaluations, {row['seconds']:.2f} s, Fréchet {row['fd']:.2f}, "
        f"retrieval@1 {row['retrieval_1']:.3f}, @5 {row['retrieval_5']:.3f}"
    )


def curves(rows: list[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """(guidance, interval, shift, sampler) → means over seeds, by evaluations."""
    found: dict[tuple[Any, ...], dict[int, list[Row]]] = {}
    for row in rows:
        interval = tuple(row["guidance_interval"] or ())
        points = found.setdefault((row["guidance_scale"], interval, row["shift"], row["sampler"]), {})
        points.setdefault(row["steps"], []).append(row)
    means = {
        key: [
            {**same[0], **{name: sum(row[name] for row in same) / len(same) for name in (*MEASURES, "seconds")}}
            for same in points.values()
        ]
        for key, points in found.items()
    }
    return {key: sorted(points, key=lambda row: row["evaluations"]) for key, points in means.items()}


def verdicts(rows: list[Row]) -> list[str]:
    """For each guidance: the fewest evaluations with the Fréchet distance of many Euler steps or a better one."""
    points = [row for curve in curves(rows).values() for row in curve]
    lines = []
    for guidance in sorted({row["guidance_scale"] for row in points}):
        mine = [row for row in points if row["guidance_scale"] == guidance]
        plain = [
            r for r in mine if r["sampler"] == "euler" and r["guidance_interval"] is None and r["steps"] == REFERENCE
        ]
        for reference in plain:
            best = min((r for r in mine if r["fd"] <= reference["fd"]), key=lambda r: (r["evaluations"], r["fd"]))
            lines += [f"to reach: {said(reference)}", f"  enough: {said(best)}"]
    return lines


def draw(rows: list[Row], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = curves(rows)
    scales = sorted({key[0] for key in found})
    kinds = list(dict.fromkeys(key[1:3] for key in found))  # interval and shift
    figure, axes = plt.subplots(
        2, len(scales), figsize=(1 + 4.2 * len(scales), 7), sharex=True, squeeze=False, layout="constrained"
    )
    for (scale, interval, shift, sampler), points in found.items():
        label = sampler + (" in {:g} to {:g}".format(*interval) if interval else "")
        label += "" if shift is None else f", shift {shift:g}"
        for line, measure in enumerate(("fd", "retrieval_1")):
            axes[line, scales.index(scale)].plot(
                [row["evaluations"] for row in points], [row[measure] for row in points], "o", markersize=3,
                linestyle=LINES[kinds.index((interval, shift)) % len(LINES)], color=COLOURS[sampler], label=label,
            )  # fmt: skip
    ticks = (5, 10, 20, 50, 100)
    for column, scale in enumerate(scales):
        axes[0, column].set(title=f"guidance {scale:g}", ylabel="Fréchet distance" if column == 0 else None)
        axes[1, column].set(xlabel="evaluations of the network", ylabel="retrieval@1" if column == 0 else None)
    for place in axes.flat:
        place.set_xscale("log")
        place.minorticks_off()
        place.set_xticks(ticks, [str(each) for each in ticks])
        place.grid(alpha=0.3)
    axes[0, -1].legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
