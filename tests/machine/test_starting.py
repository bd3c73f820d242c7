"""Ctrl-C in the first seconds of a command ends it without a traceback, and changes nothing for those who import us."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fluxflow_exp.config.commands import COMMANDS
from fluxflow_exp.machine import starting

EARLY = "fluxflow_exp.errors"  # all commands import it at their top
SWALLOWED = "numpy.version"  # torch imports it from C++, where it goes on after an exception
TOLD = (130, "error: stopped before anything began\n")
# Imported by Python before the command.
PLANTED = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ.get("INTERRUPTED_AT"):
            del os.environ["INTERRUPTED_AT"]
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
"""


@pytest.fixture(autouse=True)
def _handler() -> Iterator[None]:
    """SIGINT as Python leaves it, before the test and after it: a background job ignores it, and so do its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted(folder: Path, at: str, *command: str) -> tuple[int, str]:
    """The exit code of a command that gets SIGINT as it begins to import `at`, and what it says."""
    (folder / "sitecustomize.py").write_text(PLANTED)
    places = [str(folder), str(Path(starting.__file__).parents[2])]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder, env={**os.environ, "PYTHONPATH": os.pathsep.join(places), "INTERRUPTED_AT": at},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize("name", ["", *(f".{name}" for name in COMMANDS)])
def test_a_command_that_is_being_imported_ends_in_one_line(tmp_path: Path, name: str) -> None:
    assert interrupted(tmp_path, EARLY, "-m", f"fluxflow_exp{name}", "--help") == TOLD


def test_so_does_an_installed_script(tmp_path: Path) -> None:
    script = tmp_path / "fluxflow-train"
    script.write_text("from fluxflow_exp.main import cli\ncli()\n")
    assert interrupted(tmp_path, EARLY, str(script), "--help") == TOLD


def test_a_run_that_still_imports_torch_has_not_begun(tmp_path: Path) -> None:
    assert interrupted(tmp_path, SWALLOWED, "-m", "fluxflow_exp", "validate=true") == TOLD


def test_a_command_that_imports_torch_in_its_course_ends_there(tmp_path: Path) -> None:
    assert interrupted(tmp_path, SWALLOWED, "-m", "fluxflow_exp.evaluate", str(tmp_path)) == (130, "")


@pytest.mark.parametrize(
    ("given", "listens"),
    [
        ("python -m fluxflow_exp.study toy", True),
        ("python -I -mfluxflow_exp", True),
        ("python /venv/bin/fluxflow-generate --help", True),
        ("python -m theirs.train", False),
        ("python -m theirs fluxflow_exp", False),
        ("python -m fluxflow_expert", False),
        ("python theirs.py", False),
    ],
)
def test_only_our_commands_listen(monkeypatch: pytest.MonkeyPatch, given: str, listens: bool) -> None:
    words = given.split()
    module = next((place for place, word in enumerate(words) if word.startswith("-m")), None)
    after = 1 if module is None else module + (2 if words[module] == "-m" else 1)
    monkeypatch.setattr(sys, "orig_argv", words)
    monkeypatch.setattr(sys, "argv", words[1:] if module is None else ["-m", *words[after:]])
    starting.listen()
    assert (signal.getsignal(signal.SIGINT) is not signal.default_int_handler) == listens
    starting.over()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_a_command_that_was_told_to_ignore_ctrl_c_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/venv/bin/fluxflow-train"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    starting.listen()
    starting.over()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    os.kill(os.getpid(), signal.SIGINT)
