"""What several files here start from."""

from pathlib import Path

import pytest

from tests.helpers.flow_steps import trained_autoencoder


@pytest.fixture(scope="session")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_autoencoder(tmp_path_factory.mktemp("autoencoder"))
