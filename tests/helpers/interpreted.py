"""Tests of Triton kernels: on a GPU, and on CPUs through Triton's interpreter.

Triton decides when it is imported whether it interprets, so the CPU's tests are collected only by a child process.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = ["cpu"] if INTERPRETED else [pytest.param("cuda", marks=pytest.mark.gpu)]

on_each_device = pytest.mark.parametrize("device", DEVICES)
by_the_parent = pytest.mark.skipif(INTERPRETED, reason="this is the child")
with_triton = pytest.mark.skipif(find_spec("triton") is None, reason="this build of torch comes without Triton")


def passes_interpreted(file: str) -> None:
    """Run the tests of `file` in a child process that interprets."""
    child = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stdout + child.stderr
