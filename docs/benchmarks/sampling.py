"""How few evaluations of the network do: samplers, steps, guidance and its interval, judged by held-out pictures.

    python docs/benchmarks/sampling.py outputs/full --json OUT.json --picture OUT.png
    python docs/benchmarks/sampling.py RUN/weights/final.safetensors data/styles/held_out.tsv data/styles/images \
        --json OUT.json --picture OUT.png

One picture for each prompt and configuration; Fréchet distance from the held-out pictures and retrieval of them, in the
features that `evaluate` takes by default, which of the real pictures are made once; of data=shapes prompt accuracy,
too. Evaluations are counted as the network is called, for one picture: guidance makes two of a step. Heun gets half of
the --steps, since each costs two. Seconds are those of all pictures, decoded. --json is written after each
configuration, and those that it holds already are not measured again; --draw makes the picture of such a file again.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from fluxflow_exp.compare.significance import Difference, paired
from fluxflow_exp.data.captions import lines_of
from fluxflow_exp.data.reading import read_all
from fluxflow_exp.data.transforms import open_rgb, square
from fluxflow_exp.errors import UserError
from fluxflow_exp.evaluation import sets
from fluxflow_exp.evaluation.features import Features, load
from fluxflow_exp.evaluation.held_out import data_of
from fluxflow_exp.evaluation.measures import EFFICIENTNET
from fluxflow_exp.evaluation.published_model import Subject
from fluxflow_exp.files import digest, write_json
from fluxflow_exp.models.text_to_image import TextToImage
from fluxflow_exp.samplers import SAMPLERS

RETRIEVAL = ["retrieval_1", "retrieval_5"]
ACCURACY = "prompt_accuracy"
AVERAGED = ("fd", *RETRIEVAL, ACCURACY, "seconds")
FEW = 20  # evaluations
AT_ONCE = 8  # pictures whose features a CPU makes at once: what passes between layers stays in its cache
COLOURS = {"euler": "#b5482a", "heun": "#777777", "ab2": "#0b6e4f"}
LINES = ("-", "--", ":", "-.")
NAMES = {RETRIEVAL[0]: "retrieval@1", ACCURACY: "prompt accuracy"}
REFERENCE = 50  # steps of Euler, without an interval
Row = dict[str, Any]
Score = Callable[[Tensor, list[str]], dict[str, float]]


def main() -> None:
    options = parser().parse_args()
    if not (options.draw or options.weights) or (options.captions and not options.images):
        parser().error("RUN, or WEIGHTS, CAPTIONS and IMAGES, or --draw JSON")
    found = json.loads(options.draw.read_text()) if options.draw else measure(options)
    for line in verdicts(found["rows"]):
        print(line)
    if options.picture:
        draw(found["rows"], options.picture)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add("weights", type=Path, nargs="?", help="run folder, or final.safetensors of one")
    add("captions", type=Path, nargs="?", help="lines of NAME<TAB>CAPTION of held-out pictures; default: the run's own")
    add("images", type=Path, nargs="?", help="folder of these")
    add("--data", nargs="+", default=[], metavar="data.KEY=VALUE", help="other data than the run's own")
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
    file = Subject(options.weights).file if options.weights.is_dir() else options.weights
    model = TextToImage.load(file, device=device)
    prompts, pictures, score = held_out(options, model.img_size)
    network = load(EFFICIENTNET).to(device)
    real = features(network, pictures)
    facts = {
        "weights": digest(file),
        "pictures": len(prompts),
        "features": network.record,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "torch": torch.__version__,
    }
    before: Row = dict(facts)
    if options.json and options.json.is_file():
        before = json.loads(options.json.read_text())
    done: list[Row] = before.pop("rows", [])
    if before != facts:
        raise UserError(f"{options.json} was measured otherwise: {before}, not {facts}")
    draw_pictures(model, prompts[: options.batch], {"steps": 1, "guidance_scale": 2.0}, options)  # warms up
    for settings in configurations(options):
        if any(settings.items() <= row.items() for row in done):
            continue
        images, row = draw_pictures(model, prompts, settings, options)
        fake = features(network, images)
        row |= {"fd": frechet(real, fake), **sets.compared(RETRIEVAL, real, fake, captions=prompts, prompts=prompts)}
        done.append({**row, **(score(images, prompts) if score else {})})
        print(said(done[-1]), flush=True)
        if options.json:
            write_json(options.json, {**facts, "rows": done})
    return {**facts, "rows": done}


def held_out(options: argparse.Namespace, img_size: int) -> tuple[list[str], Tensor, Score | None]:
    """Return prompts, their pictures, uint8 (prompts, 3, img_size, img_size), and what reads such pictures."""
    if options.captions:
        names, prompts = zip(*(line.split("\t") for line in lines_of(options.captions) if line), strict=True)
        with ThreadPoolExecutor() as pool:
            read = pool.map(lambda name: square(open_rgb(options.images / name), img_size), names)
            return list(prompts), torch.stack(list(read)), None
    subject = Subject(options.weights)
    data = data_of(subject.values, subject.step("flow_processor"), options.data)
    batch = read_all(data.validation, range(len(data.validation)), seed=0)
    return batch.captions, batch.images, data.score if data.reads_back else None


def features(network: Features, images: Tensor) -> Tensor:
    """(n, width)."""
    if next(network.model.parameters()).is_cuda:
        return network(images)
    return torch.cat([network(part) for part in torch.split(images, AT_ONCE)])


def frechet(real: Tensor, fake: Tensor) -> float:
    """Return the distance of `evaluate`, by n × m numbers: of centred features A, tr (Σ₁Σ₂)^½ is that of |A₁A₂ᵀ|."""
    sets_ = [each.double() for each in (real, fake)]
    one, two = ((each - each.mean(0)) / (len(each) - 1) ** 0.5 for each in sets_)
    apart = (sets_[0].mean(0) - sets_[1].mean(0)).square().sum()
    return float(apart + one.square().sum() + two.square().sum() - 2 * torch.linalg.svdvals(one @ two.T).sum())


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
    model: TextToImage, prompts: list[str], settings: Row, options: argparse.Namespace
) -> tuple[Tensor, Row]:
    """Return pictures, uint8 (prompts, 3, height, width), and the settings with what the pictures cost."""
    rows = []
    handle = model.flow_processor.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    wait(options.device)
    started = time.perf_counter()
    gpu = torch.device(options.device).type == "cuda"
    with torch.autocast("cuda", torch.bfloat16, enabled=gpu):
        images = torch.cat(list(model.generate(prompts, batch_size=options.batch, **settings)))
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
        + (f", prompt accuracy {row[ACCURACY]:.3f}" if ACCURACY in row else "")
    )


def curves(rows: list[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """(guidance, interval, shift, sampler) → means over seeds, by evaluations; `distances` has those of each seed."""
    found: dict[tuple[Any, ...], dict[int, list[Row]]] = {}
    for row in rows:
        interval = tuple(row["guidance_interval"] or ())
        points = found.setdefault((row["guidance_scale"], interval, row["shift"], row["sampler"]), {})
        points.setdefault(row["steps"], []).append(row)
    means = {
        key: [
            {
                **same[0],
                **{name: fmean(row[name] for row in same) for name in AVERAGED if name in same[0]},
                "distances": {row["seed"]: row["fd"] for row in same},
            }
            for same in points.values()
        ]
        for key, points in found.items()
    }
    return {key: sorted(points, key=lambda row: row["evaluations"]) for key, points in means.items()}


def verdicts(rows: list[Row]) -> list[str]:
    """For each guidance, against many Euler steps: the fewest evaluations with their Fréchet distance or a better one,
    and the best of FEW evaluations."""
    points = [row for curve in curves(rows).values() for row in curve]
    lines = []
    for guidance in sorted({row["guidance_scale"] for row in points}):
        mine = [row for row in points if row["guidance_scale"] == guidance]
        plain = [
            r for r in mine if r["sampler"] == "euler" and r["guidance_interval"] is None and r["steps"] == REFERENCE
        ]
        for reference in plain:
            alike = [row for row in mine if row["distances"].keys() & reference["distances"].keys()]
            reached = (row for row in alike if difference(row, reference).mean <= 0)
            enough = min(reached, key=lambda row: (row["evaluations"], row["fd"]))
            lines += [f"to reach: {said(reference)}", f"  enough: {compared(enough, reference)}"]
            few = [row for row in alike if row["evaluations"] <= FEW]
            if few:
                best = min(few, key=lambda row: difference(row, reference).mean)
                lines.append(f"  best of at most {FEW}: {compared(best, reference)}")
    return lines


def difference(row: Row, reference: Row) -> Difference:
    """Return how much longer the distance of `row` is, in pairs of the same noise."""
    seeds = sorted(row["distances"].keys() & reference["distances"].keys())
    return paired(*([each["distances"][seed] for seed in seeds] for each in (row, reference)))


def compared(row: Row, reference: Row) -> str:
    found = difference(row, reference)
    interval = "" if found.half_width is None else f" ± {found.half_width:.2f} (95 %, {found.seeds[0]} seeds)"
    return f"{said(row)}; Fréchet {found.mean:+.2f}{interval}"


def draw(rows: list[Row], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = curves(rows)
    scales = sorted({key[0] for key in found})
    kinds = list(dict.fromkeys(key[1:3] for key in found))  # interval and shift
    second = ACCURACY if ACCURACY in rows[0] else RETRIEVAL[0]
    figure, axes = plt.subplots(
        2,
        len(scales),
        figsize=(1 + 4.2 * len(scales), 7),
        sharex=True,
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for (scale, interval, shift, sampler), points in found.items():
        label = sampler + (" in {:g} to {:g}".format(*interval) if interval else "")
        label += "" if shift is None else f", shift {shift:g}"
        for line, measure in enumerate(("fd", second)):
            axes[line, scales.index(scale)].plot(
                [row["evaluations"] for row in points], [row[measure] for row in points], "o", markersize=3,
                linestyle=LINES[kinds.index((interval, shift)) % len(LINES)], color=COLOURS[sampler], label=label,
            )  # fmt: skip
    ticks = (5, 10, 20, 50, 100)
    for column, scale in enumerate(scales):
        axes[0, column].set(title=f"guidance {scale:g}", ylabel="Fréchet distance" if column == 0 else None)
        axes[1, column].set(xlabel="evaluations of the network", ylabel=NAMES[second] if column == 0 else None)
        for reference in found.get((scale, (), None, "euler"), []):
            if reference["steps"] == REFERENCE:
                for line, measure in enumerate(("fd", second)):
                    axes[line, column].axhline(reference[measure], color=COLOURS["euler"], linewidth=0.6)
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
