"""A folder that `datasets` cannot read, or reads as something else, is told by the file that is at fault."""

from pathlib import Path

import datasets
import pytest

from fluxflow_exp.data.hf_dataset import HFDataset
from tests.helpers.datasets import noise

PICTURES = "image,text\n" + "".join(f"{i}.png,picture {i}\n" for i in range(4))
STRAY = "a,b\n1,2\n"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf_cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {"list.csv": PICTURES, "notes.csv": STRAY},
            r"the same columns: list.csv 'image', 'text'; notes.csv 'a', 'b'. What is no part of .* elsewhere$",
        ),
        (
            {"0.csv": PICTURES, "1.csv": PICTURES, "in/notes.csv": STRAY},
            r"columns: in/notes.csv 'a', 'b'; 0.csv and 1 more have 'image', 'text'.",
        ),
        ({"list.csv": PICTURES, "notes.csv": "caf\xe9".encode("latin1")}, "notes.csv cannot be read as csv: 'utf-8'"),
        ({"0.png": b"", "metadata.csv": "name,text\n0.png,x\n"}, "metadata.csv cannot be read as metadata of"),
        ({"notes.csv": STRAY}, r"no column 'image'. Those of train: 'a', 'b' \(read as csv: notes.csv\)$"),
        (
            {"0.png": b"", "1.png": b"", "captions.csv": PICTURES},
            r"no column 'text'. Those of train: 'image' \(read as imagefolder: pictures alone, without .*\)$",
        ),
    ],
)  # fmt: skip
def test_the_file_at_fault_is_named_once(
    files: dict[str, str | bytes], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "set"
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            noise(1, (8, 8))[0].save(path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=said) as caught:
        HFDataset(data_path=str(folder), img_size=16)
    assert "\n" not in str(caught.value)
    assert "Failed to read" not in capfd.readouterr().err  # what the library logs
