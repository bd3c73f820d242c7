"""What takes long to import is imported where it is used: by no text of help, and by no check of a configuration."""

import subprocess
import sys
from pathlib import Path

from fluxflow_exp.config.commands import COMMANDS
from fluxflow_exp.models import weights
from tests.helpers.carded import make_carded

HEAVY = ("wandb", "transformers", "matplotlib", "lpips", "submitit", "torchvision", "torch._inductor", "torch._dynamo")
REPORT = """
import runpy, sys
module, *arguments = sys.argv[1:]
sys.argv = [module, *arguments]
code = 0
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as end:
    code = end.code or 0
print("CODE", code)
print("IMPORTED", *sorted(sys.modules))
"""

# Each in a process of its own, forked from one that has what nearly all of them need.
HELP = """
import os, runpy, sys
from fluxflow_exp import main, status
for module in sys.argv[1:]:
    if os.fork() == 0:
        sys.argv, code = [module, "--help"], 0
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code or 0
        print("CODE", code, "TORCH", "torch" in sys.modules, "END", flush=True)
        os._exit(0)
    os.wait()
"""


def imported(folder: Path, *command: str) -> tuple[str, set[str]]:
    """What `python -m COMMAND` says, and the modules that it has imported when it ends well."""
    done = subprocess.run(
        [sys.executable, "-c", REPORT, *command], cwd=folder, capture_output=True, text=True, check=True, timeout=120
    )
    said, _, modules = done.stdout.rpartition("IMPORTED ")
    assert said.endswith("CODE 0\n"), done.stdout + done.stderr
    return said, set(modules.split())


def test_help_does_without_torch(tmp_path: Path) -> None:
    names = ["", *(f".{name}" for name in COMMANDS)]
    done = subprocess.run(
        [sys.executable, "-c", HELP, *(f"fluxflow_exp{name}" for name in names)],
        cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    *said, rest = done.stdout.split("END\n")
    assert rest == ""
    for name, text in zip(names, said, strict=True):
        assert ("fluxflow-generate" if name == ".generate" else f"python -m fluxflow_exp{name}") in text
        assert text.endswith("CODE 0 TORCH False "), name + done.stderr


def test_a_card_is_written_without_torch(tmp_path: Path) -> None:
    folder = make_carded(tmp_path)
    facts = {
        "index": 3, "kind": "ema", "model": {}, "trained": {}, "text_encoder": "embed", "img_size": 32, "downscale": 4,
        "flow": None, "best": {"flow": 16}, "last_share": 0.75,
    }  # fmt: skip
    weights.publish(folder.weights / "final.safetensors", {}, facts)
    said, modules = imported(tmp_path, "fluxflow_exp.report", str(folder.path))
    assert "report.html" in said
    assert "final.safetensors has step flow between update 16" in (folder.path / "report.html").read_text()
    assert "torch" not in modules


def test_a_check_of_a_configuration_imports_nothing_that_only_training_needs(tmp_path: Path) -> None:
    said, modules = imported(tmp_path, "fluxflow_exp", "validate=true", "hardware=cpu", "hardware.compile=true")
    assert "PIPELINE EXECUTION PLAN" in said
    assert "torch" in modules
    assert sorted(modules & set(HEAVY)) == []
