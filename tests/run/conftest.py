"""Run folders as commands open them."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from fluxflow_exp import status
from fluxflow_exp.config.compose import typed
from fluxflow_exp.console import Console
from fluxflow_exp.data.build import build_data
from fluxflow_exp.run import folder, provenance
from fluxflow_exp.run.folder import RunFolder, run_path
from fluxflow_exp.step_length import lengths_of
from tests.helpers.studies import Make


def prepared(values: dict[str, Any]) -> tuple[Any, ...]:
    """What a command knows before it looks at the run folder of `values`."""
    config = typed(values)
    data = build_data(config)
    lengths = lengths_of(config, data)
    return RunFolder(run_path(values)), values, lengths, data, Console(quiet=True)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code need not be asked of git, nor a lock be waited for long."""
    monkeypatch.setattr(provenance, "code", lambda: (None, ""))
    monkeypatch.setattr(folder, "LOCK_SECONDS", 0.5)


@pytest.fixture
def study(make: Make, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two activations with two seeds each, which are not compared with what their commands would compose now."""
    monkeypatch.setattr(status, "_values_now", lambda *asked: None)
    for activation, seed in product(("bezier", "silu"), (0, 1)):
        made = make(activation, seed, [1.0, 2.0, 3.0])
        (made / "checkpoints").mkdir(exist_ok=True)
    return made.parent
