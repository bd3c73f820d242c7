"""The model card of an exported folder: README.md as Hugging Face's hub shows it, from what the run has recorded."""

from pathlib import Path
from typing import Any

import fluxflow_exp
from fluxflow_exp import files
from fluxflow_exp.config.published import TARGET
from fluxflow_exp.export.source import Source
from fluxflow_exp.models.facts import last_share, moment
from fluxflow_exp.report import facts as run_facts
from fluxflow_exp.report.facts import Card
from fluxflow_exp.run.judged import Guidance

UNKNOWN = "Unknown: the weights were exported without the run that trained them."
NO_LICENCE = (
    "Not stated. Until who trained the model states one (`license:` in this file's head), nobody may assume that it "
    "may be used or passed on."
)
PROMPT = "a red circle on a blue ground"
PLAYERS = {"expander": "vae", "flow_processor": "flow", "text_encoder": "text_encoder"}  # that train a part


def card(source: Source, use: str, output: Path, *, licence: str | None, library: str) -> str:
    """The text of README.md. `use`: how the folder is used, with {folder}, {name}, {prompt} and others in braces."""
    run = source.run
    pretrained = source.target("text_encoder").startswith("fluxflow_exp.models.huggingface.")
    shown = run_facts.read(run) if run else None
    text = use.format(
        folder=output.name,
        name=source.name,
        prompt=PROMPT,
        guidance=arguments(source.guidance),
        inputs=f" {inputs(source.guidance)}." if source.guidance.scale != 1 else "",
        and_transformers=", and `transformers` for its text encoder" if pretrained else "",
    )
    sections = [
        _head(licence, library),
        f"# {source.name}\n\nText to image, {source.facts['img_size']} pixels, "
        f"{sum(source.parameters.values()) / 1e6:,.2f} million parameters, trained with fluxflow_exp.",
        f"## Use\n\n{text}",
        f"## Parts\n\n{_parts(source, shown)}",
        f"## Data\n\n{_data(shown) if shown else UNKNOWN}",
        f"## Metrics\n\n{_metrics(source, shown) if shown else UNKNOWN}",
        f"## Licence\n\n{_licence(source, licence, pretrained)}",
        f"## Where it is from\n\n{_origin(source, shown)}",
    ]
    return "\n\n".join(sections) + "\n"


def arguments(guidance: Guidance) -> str:
    """The guidance that the run is judged at, as a call of the pipeline takes it, after other arguments."""
    times = f", guidance_interval=({guidance.interval[0]:g}, {guidance.interval[1]:g})" if guidance.interval else ""
    return f", guidance_scale={guidance.scale}{times}" if guidance.scale != 1 else ""


def inputs(guidance: Guidance) -> str:
    """The same as inputs of the node for ComfyUI, in a sentence."""
    low, high = guidance.interval or (0, 1)
    times = f", guided_from {low:g} and guided_to {high:g}" if guidance.interval else ""
    return f"The model was judged with guidance_scale {guidance.scale:g}{times}"


def remark(output: Path, licence: str | None) -> str:
    """What to say of the card."""
    stated = "" if licence else "; it states no licence (--license NAME does)"
    return f"Its model card: {output / 'README.md'}{stated}"


def _head(licence: str | None, library: str) -> str:
    lines = [f"license: {licence}"] if licence else []
    lines += [f"library_name: {library}"] if library == "diffusers" else []
    return "\n".join(["---", *lines, "pipeline_tag: text-to-image", "tags:", f"- {library}", "- fluxflow", "---"])


def _parts(source: Source, shown: Card | None) -> str:
    rows = [
        (
            part,
            f"`{source.target(part).removeprefix('fluxflow_exp.models.')}`",
            f"{source.parameters[part]:,}",
            _trained(source, part, shown),
        )
        for part in source.nodes
    ]
    flow = source.facts["flow"]
    return (
        f"{_table(('part', 'class', 'parameters', 'trained last in step'), rows)}\n\n"
        f"Latents are 1/{source.facts['downscale']} of a picture's sides. The flow predicts {flow['objective']}, with "
        f"shift {flow['shift']:g}, and its caption was left out {flow['cfg_dropout_prob']:.0%} of the time"
        + (": use guidance." if flow["cfg_dropout_prob"] > 0 else ": it was not trained for guidance.")
    )


def _trained(source: Source, part: str, shown: Card | None) -> str:
    """The step that trained a part last: one that published it may only have used it, as it came to the run."""
    step = str(source.facts["trained"].get(part, "not trained"))
    values = shown.values["stage"]["steps"].get(step) if shown else None
    if values is None or not values["trainer"][TARGET].startswith("fluxflow_exp."):
        return step
    return step if PLAYERS[part] in values["optimizers"] else "before this run"


def _data(shown: Card) -> str:
    sets = shown.values["data"].get("datasets") or {"": shown.values["data"]}
    rows = [
        (f"{name} {'data' if key == TARGET else key}".strip(), f"`{_kind(value) if key == TARGET else _shown(value)}`")
        for name, node in sets.items()
        for key, value in node.items()
        if value is not None and key != "token_env"
    ]
    rows += [(f"pictures seen in {step}", f"{done['images']:,}") for step, done in shown.record["steps"].items()]
    return _table(("", "of the run's configuration"), rows)


def _kind(target: str) -> str:
    """The name of data of this package, as in data=NAME; of others their class."""
    return target.split(".")[-2] if target.startswith("fluxflow_exp.data.") else target


def _shown(value: Any) -> Any:
    """A value of the configuration; of a place on this machine its last name."""
    if isinstance(value, list):
        return ", ".join(str(_shown(each)) for each in value)
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~", ".")) else value


def _metrics(source: Source, shown: Card) -> str:
    """What was measured of the very weights that are exported: not of an earlier step, a part, or other averages."""
    if source.adapter:
        return "None measured with the adapter."
    rows = [
        _metric(each)
        for each in run_facts.results(shown)
        if isinstance(each["value"], int | float) and _is_of(source, shown, each)
    ]
    head = ("on held-out data", "value", "unit", "n", "guidance", "sampler", "other data", "step", "measured by")
    used = [column for column in range(len(head)) if any(row[column] != "" for row in rows)]
    found = dict.fromkeys(tuple(row[column] for column in used) for row in rows)
    return _table(tuple(head[column] for column in used), list(found)) if rows else "None measured."


def _metric(result: dict[str, Any]) -> tuple[Any, ...]:
    """A row for a result; what it does not depend on is empty."""
    guidance, features = result["guidance"], result.get("features")
    return (
        result["title"],
        f"{result['value']:.4g}",
        result["unit"] or "",
        result["n"] or "",
        "" if guidance is None else f"{guidance:g}",
        result.get("sampler") or "",
        " ".join(result.get("data") or []),
        result["step"],
        f"{result['implementation']}{', ' + features['name'] if features else ''}",
    )


def _is_of(source: Source, shown: Card, result: dict[str, Any]) -> bool:
    """Whether a result is of the weights of the step that trained a part last, as they are exported."""
    step = result["step"]
    entry, values = shown.record["steps"].get(step), shown.values["stage"]["steps"].get(step, {})
    if entry is None or step not in {source.facts["trained"].get(part) for part in source.nodes}:
        return False
    share = last_share(source.facts, step)
    at = entry["updates"] if share else source.facts.get("best", {}).get(step, entry["updates"])
    alike = values.get("ema") is None or result["ema"] == (source.kind == "ema")
    return bool(result["update"] == at and result.get("last_share") == share and alike)


def _licence(source: Source, licence: str | None, pretrained: bool) -> str:
    said = [f"`{licence}`, as stated by who exported the model." if licence else NO_LICENCE]
    said.append("The code in this folder is fluxflow_exp's, under the MIT licence.")
    if pretrained:
        encoder = Path(str(source.arguments("text_encoder").get("name"))).name
        said.append(f"The weights of the text encoder `{encoder}` are in this folder, under their own licence.")
    if source.target("expander").startswith("fluxflow_exp.models.diffusers_vae."):
        said.append(
            "The autoencoder is in the format of diffusers: if it began as somebody's, their licence holds, too."
        )
    return " ".join(said)


def _origin(source: Source, shown: Card | None) -> str:
    between = "".join(f", step {step} {moment(source.facts, step)}" for step in source.facts.get("best", {}))
    rows: list[tuple[Any, ...]] = [
        ("weights", f"`{source.path.name}` ({source.kind}{between}), SHA-256 `{files.digest(source.path)}`"),
        ("exported by", f"fluxflow_exp {fluxflow_exp.__version__}"),
    ]
    if source.adapter:
        merged = f"`{source.adapter.name}`, {source.adapter_scale:g} times, SHA-256 `{files.digest(source.adapter)}`"
        rows += [("with the adapter", merged)]
    if shown:
        upstream = shown.record.get("upstream") or {}
        rows += [("started from", f"`{Path(path).name}`, SHA-256 `{digest}`") for path, digest in upstream.items()]
        made_with = shown.record.get("made_with") or {}
        rows += [
            ("run", f"`{shown.name}`, commit `{shown.record.get('commit') or 'unknown'}`, seed {shown.values['seed']}")
        ]
        rows += [("trained on", made_with.get("machine", "unknown"))]
    return _table(("", ""), rows)


def _table(head: tuple[str, ...], rows: list[Any]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(each).replace('|', chr(92) + '|') for each in line)} |" for line in lines)
