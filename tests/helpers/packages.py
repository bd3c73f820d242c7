"""Packages that are not installed everywhere."""

from importlib.util import find_spec

import pytest


def skip_without(package: str) -> None:
    """Skip the module that calls this where `package` is not installed; it is not imported, which takes seconds."""
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed", allow_module_level=True)
