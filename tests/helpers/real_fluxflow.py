"""The classes of the package `fluxflow` 0.3.1, without what its package imports besides (diffusers and others)."""

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest


def real_vae() -> Any:
    """The module `fluxflow.models.vae`; the test is skipped where the package is not installed."""
    if "fluxflow.models.vae" in sys.modules:
        return sys.modules["fluxflow.models.vae"]
    found = importlib.util.find_spec("fluxflow")
    if found is None or importlib.util.find_spec("einops") is None:
        pytest.skip("needs: pip install --no-deps fluxflow==0.3.1 einops")
    assert found.origin
    root = Path(found.origin).parent
    for name, folder in (("fluxflow", root), ("fluxflow.models", root / "models")):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    return importlib.import_module("fluxflow.models.vae")
