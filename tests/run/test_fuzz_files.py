"""Metadata, config.yaml, run.json, rows and what else lies in a run folder, changed at random: each input ends in a
result or in one clear error. FLUXFLOW_FUZZ=3000 pytest tests/run/test_fuzz_files.py tries so many; some always are."""

import contextlib
import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fluxflow_exp import evaluate, generate, replay, status, verify
from fluxflow_exp import plot as plots
from fluxflow_exp.compare import command as compare
from fluxflow_exp.convert import command as convert
from fluxflow_exp.errors import UserError
from fluxflow_exp.models import weights
from fluxflow_exp.report import command as report
from fluxflow_exp.run import frozen
from tests.conftest import toy
from tests.helpers import fuzzed
from tests.helpers.children import finish

COUNT = int(os.environ.get("FLUXFLOW_FUZZ", "50"))
MANY = 1000
SHARES = 1 if COUNT < MANY else 16  # tests that workers can divide among them
SEED = int(os.environ.get("FLUXFLOW_FUZZ_SEED", "0"))
JSONS = ("summary.json", "digests.json", "failure.json", "submitted.json", "non_finite.json", "evaluations/e.json")
METRIC = "val_psnr"
Command = Callable[[Path], int | None]


def words(cli: Callable[[], Any], *given: str) -> int | None:
    sys.argv = ["command", *given]
    found = cli()
    return found if isinstance(found, int) else None


def framed(folder: Path) -> int:
    """What each command that builds does first."""
    try:
        frozen.to_build(folder / "run" / "config.yaml")
    except UserError as error:
        print("error:", *error.args)
        return 2
    return 0


def drawn(folder: Path) -> int | None:
    return words(plots.cli, str(folder / "run"))


def made(folder: Path) -> int | None:
    (folder / "p.txt").write_text("a red circle\n")
    given = ["--text_prompts_path", "p.txt", "--output_path", "out", "--steps", "1", "--device", "cpu"]
    return words(generate.cli, "--model_checkpoint", "run/weights/final.safetensors", *given)


def evaluated(folder: Path) -> int | None:
    return evaluate.main(["run", "--images", "2", "--metrics", "psnr", "--device", "cpu"])


def compared(folder: Path) -> int | None:
    for name, seed, activation in (("b", 1, "silu"), ("c", 0, "gelu"), ("d", 1, "gelu")):
        shutil.copytree(folder.parent / "base" / "run", folder / name, copy_function=os.link)
        text = (folder / name / "config.yaml").read_text().replace("seed: 0", f"seed: {seed}", 1)
        (folder / name / "config.yaml").unlink()
        (folder / name / "config.yaml").write_text(text.replace("activation: silu", f"activation: {activation}", 1))
    return compare.main(
        ["run", "b", "c", "d", "--by", "model.activation", "--metric", METRIC, "--allow", "data,code,config"]
    )


COMMANDS: dict[str, Command] = {
    "status": lambda folder: status.main(["run"]),
    "verify": lambda folder: verify.main(["run"]),
    "report": lambda folder: report.cli(["run"]),
    "frozen": framed,
    "replay": lambda folder: replay.main(["run"]),
    "evaluate": evaluated,
    "compare": compared,
    "plot": drawn,
    "generate": made,
    "convert": lambda folder: words(
        convert.cli, "weights", "run/weights/final.safetensors", "o.safetensors", "--to", "fluxflow"
    ),
}
# What is changed → the commands that read it, by how often each is tried.
DEAR = ("replay", "evaluate", "compare", "plot")  # tried where many inputs are
READERS = {
    "metadata": ["generate"] * 6 + ["evaluate", "convert", "convert"],
    "config.yaml": ["frozen"] * 8 + ["status", "report", "report", "evaluate", "replay", "compare"],
    "run.json": ["status", "verify", "verify", "report", "report", "evaluate", "compare", "replay"],
    "rows": ["status", "verify", "verify", "report", "report", "plot", "replay", "compare"],
    "other": ["status", "verify", "verify", "report", "report"],
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished toy run, and a folder for copies beside it."""
    root = tmp_path_factory.mktemp("fuzz")
    short = [f"stage.steps.{name}.max_updates=4" for name in ("vae", "vae_gan", "flow")]
    values = toy(root, "name=run", "model.activation=silu", *short)
    assert finish(values, root / "log.txt") == 0
    (root / "base").mkdir()
    (root / "run").rename(root / "base" / "run")
    _warm_up(root)
    return root


def _warm_up(root: Path) -> None:
    """Run every command once here, so that the processes that are forked have imported all that they need."""
    before = Path.cwd()
    for name in [each for each in COMMANDS if COUNT >= MANY or each not in DEAR]:
        folder = root / f"warm-{name}"
        shutil.copytree(root / "base", folder, copy_function=os.link)
        os.chdir(folder)
        with contextlib.suppress(SystemExit):
            COMMANDS[name](folder)
    os.chdir(before)


def change(kind: str, run: Path, rng: random.Random) -> str:
    """Change a file of `kind`; its name."""
    if kind == "metadata":
        path = run / "weights" / "final.safetensors"
        with safe_open(path, framework="pt") as file:
            text = file.metadata()[weights.KEY]
        if rng.random() < 0.75:
            text = json.dumps(fuzzed.mutated(json.loads(text), rng))
        else:
            text = fuzzed.torn(text.encode(), rng).decode(errors="replace")
        tensors = load_file(path)
        path.unlink()
        save_file(tensors, path, {weights.KEY: text})
        return path.name
    if kind == "rows":
        path = rng.choice(sorted((run / "graph").glob("*.jsonl")))
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        made = fuzzed.mutated(rows, rng)
        data = "".join(json.dumps(row) + "\n" for row in made).encode() if isinstance(made, list) else b"3\n"
    else:
        path = run / (rng.choice(JSONS) if kind == "other" else kind)
        whole = yaml.safe_load(path.read_text()) if path.exists() else {"reason": "x", "results": [], "job": "1"}
        made = fuzzed.mutated(whole, rng)
        data = (json.dumps(made) if path.suffix == ".json" else yaml.safe_dump(made)).encode(errors="replace")
    if rng.random() < 0.25:
        data = fuzzed.torn(path.read_bytes() if path.exists() else data, rng)
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    return path.name


def attempt(base: Path, kind: str, number: int) -> tuple[str, fuzzed.Outcome]:
    """Input `number` of a kind, and what the command that it is given to makes of it."""
    rng = random.Random(f"{SEED} {kind} {number}")
    folder = base / f"{kind}-{number}"
    shutil.copytree(base / "base", folder, copy_function=os.link)
    changed = change(kind, folder / "run", rng)
    readers = READERS[kind]
    name = rng.choice(readers if COUNT >= MANY else [each for each in readers if each not in DEAR])
    found = fuzzed.outcome(lambda: COMMANDS[name](folder), folder)
    if found.good:
        shutil.rmtree(folder)
    return f"{changed} → {name}", found


@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.parametrize("kind", READERS)
def test_a_changed_file_ends_in_a_result_or_a_clear_error(kind: str, share: int, base: Path) -> None:
    found = [(n, *attempt(base, kind, n)) for n in range(share, COUNT // len(READERS), SHARES)]
    print(fuzzed.tally([(kind, outcome) for _, _, outcome in found]))
    bad = [f"{kind} {n}: {what}: {each.kind}\n{each.said}" for n, what, each in found if not each.good]
    assert not bad, f"{len(bad)} of {len(found)}:\n" + "\n".join(bad[:20])
