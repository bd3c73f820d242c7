"""The output of a match: a table of both models, the model's file, and the words to use it with."""

import shlex
from pathlib import Path
from typing import Any

import yaml

from fluxflow_exp import files
from fluxflow_exp.config.override_keys import key_of
from fluxflow_exp.console import aligned
from fluxflow_exp.match.arguments import Asked


def table(found: dict[str, Any]) -> str:
    """Aligned lines: each axis of reference and candidate, and the relative difference."""
    first, second = found["reference"], found["candidate"]
    rows = [("", f"{first['model']} {first['activation']}", f"{second['model']} {second['activation']}", "difference")]
    rows.append(_row("parameters", first["parameters"], second["parameters"], "{:,.0f}"))
    for part in first["parts"]:
        rows.append(_row(f"  {part}", first["parts"][part], second["parts"].get(part), "{:,.0f}"))
    rows += [
        _row("TFLOP an update", first["tflop"], second["tflop"], "{:.5g}"),
        _row("TFLOP an image", first["tflop_per_image"], second["tflop_per_image"], "{:.5g}"),
        _row(f"peak memory, GiB ({found['hardware']})", first["peak_gib"], second["peak_gib"], "{:.3f}"),
        _row(f"s an update ({found['hardware']})", first["seconds"], second["seconds"], "{:.4g}"),
    ]
    if first["busy"] and second["busy"]:
        rows.append(_row("  s of it that the card computes", first["busy"], second["busy"], "{:.4g}"))
    return "\n".join([*aligned(rows, numbers=True), *_measured(found)])


def matched(found: dict[str, Any]) -> bool:
    return bool(abs(found["difference"]) <= found["tolerance"])


def _measured(found: dict[str, Any]) -> list[str]:
    if not found["measured"]:
        return []
    timing = found["measured"][-1]["timing"]
    return [
        f"Measured here, by turns, {timing['updates']} updates of each: {1000 * timing['reference']:.4g} and "
        f"{1000 * timing['candidate']:.4g} ms an update, {timing['ratio'] - 1:+.2%} (middle half of blocks "
        f"{timing['low'] - 1:+.2%} to {timing['high'] - 1:+.2%})"
    ]


def _row(name: str, first: float | None, second: float | None, form: str) -> tuple[str, str, str, str]:
    cells = ["not predicted" if each is None else form.format(each) for each in (first, second)]
    apart = "" if not first or second is None else f"{second / first - 1:+.2%}"
    return name, cells[0], cells[1], apart


def write_model(folder: Path, name: str, asked: Asked, found: dict[str, Any]) -> Path:
    """Write `folder`/model/`name`.yaml: the model chosen, with the command's own model keys and the widths found."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(asked.overrides)
    base = next((str(each.value()) for each in parsed if each.key_or_group == "model"), "tiny")
    given = {each.key_or_group: each.value() for each in parsed if each.key_or_group.startswith("model.")}
    body: dict[str, Any] = {"defaults": [base, "_self_"], "name": name}
    for key, value in {**given, **found["changes"]}.items():
        *sections, last = key.split(".")[1:]
        there = body
        for section in sections:
            there = there.setdefault(section, {})
        there[last] = list(value) if isinstance(value, list) else value
    reference = found["reference"]
    off = "" if matched(found) else f", not matched: the tolerance is {found['tolerance']:.0%}"
    like = f"{reference['model']} with {reference['activation']}"
    head = f"# As {like}, by {found['axis']}: {found['difference']:+.2%}{off}.\n# {_command(asked)}\n"
    path = folder / "model" / f"{name}.yaml"
    files.write_text(path, head + yaml.safe_dump(body, sort_keys=False, default_flow_style=None, width=120))
    return path


def commands(path: Path, name: str, asked: Asked, found: dict[str, Any]) -> str:
    """Return the commands that train the model: from its file, or by overrides alone."""
    own = [each for each in asked.overrides if key_of(each) == "model" or key_of(each).startswith("model.")]
    words = [each for each in own if key_of(each) not in found["changes"]]
    new = as_words(found["changes"])
    others = [each for each in asked.overrides if each not in own]
    folder = path.parent.parent
    wrote = f"Wrote {path}. Train it with:"
    if not matched(found):
        wrote = (
            f"NOT MATCHED: no model was found within {found['tolerance']:.0%} of the reference by {found['axis']}; the "
            f"nearest is {found['difference']:+.2%} off, and a comparison with it is not at equal {found['axis']}.\n"
            f"Wrote {path}, the nearest. To train it all the same:"
        )
    return "\n".join(
        [
            wrote,
            f"  {shlex.join(['python', '-m', 'fluxflow_exp', '--config-dir', str(folder), f'model={name}', *others])}",
            "or, without the file, give:",
            f"  {shlex.join([*words, *new])}",
        ]
    )


def as_words(changes: dict[str, Any]) -> list[str]:
    """The changes of a match as overrides."""
    return [f"{'+' if key.endswith('mlp_ratio') else ''}{key}={_flat(value)}" for key, value in changes.items()]


def _flat(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)


def _command(asked: Asked) -> str:
    words = [*asked.overrides, *(word for each in asked.like for word in ("--like", each)), "--axis", asked.axis]
    words += ["--measured"] if asked.measured else []
    return f"python -m fluxflow_exp.match {shlex.join(words)}"
