"""What takes long to import is imported where it is used: by no text of help, and by no check of a configuration."""

import subprocess
import sys
from pathlib import Path

import pytest

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


def imported(folder: Path, *command: str) -> tuple[str, set[str]]:
    """What `python -m COMMAND` says, and the modules that it has imported when it ends well."""
    done = subprocess.run(
        [sys.executable, "-c", REPORT, *command], cwd=folder, capture_output=True, text=True, check=True, timeout=120
    )
    said, _, modules = done.stdout.rpartition("IMPORTED ")
    assert said.endswith("CODE 0\n"), done.stdout + done.stderr
    return said, set(modules.split())


@pytest.mark.parametrize(
    "name",
    ["", ".status", ".plot", ".verify", ".drill", ".sync", ".convert", ".export", ".evaluate", ".wiring", ".report"],
)
def test_help_does_without_torch(tmp_path: Path, name: str) -> None:
    said, modules = imported(tmp_path, f"fluxflow_exp{name}", "--help")
    assert f"python -m fluxflow_exp{name}" in said
    assert "torch" not in modules


def test_a_check_of_a_configuration_imports_nothing_that_only_training_needs(tmp_path: Path) -> None:
    said, modules = imported(tmp_path, "fluxflow_exp", "validate=true", "hardware=cpu", "hardware.compile=true")
    assert "PIPELINE EXECUTION PLAN" in said
    assert "torch" in modules
    assert sorted(modules & set(HEAVY)) == []
