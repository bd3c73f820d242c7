"""Safetensors files on a disk."""

from pathlib import Path

import pytest
import torch

from fluxflow_exp.models import tensor_files


@pytest.mark.parametrize(("folder", "file"), [(0o755, 0o644), (0o750, 0o640), (0o700, 0o600)])
def test_who_may_read_the_folder_may_read_the_file(tmp_path: Path, folder: int, file: int) -> None:
    place = tmp_path / "weights"
    place.mkdir()
    place.chmod(folder)
    tensor_files.write(place / "a.safetensors", {"a": torch.zeros(2)})
    assert (place / "a.safetensors").stat().st_mode & 0o777 == file
