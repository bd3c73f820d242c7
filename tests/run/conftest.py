"""Run folders as commands open them."""

from typing import Any

import pytest

from fluxflow_exp.config.compose import typed
from fluxflow_exp.console import Console
from fluxflow_exp.data.build import build_data
from fluxflow_exp.run import folder, provenance
from fluxflow_exp.run.folder import RunFolder, run_path
from fluxflow_exp.step_length import lengths_of


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
