"""docs/benchmarks/styles_set.py on small packages: what is held out, what is drawn, whose it is."""

import hashlib
import importlib
import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from fluxflow_exp.data.image_folder import ImageFolder

SCRIPT = Path(__file__).parents[1] / "docs" / "benchmarks" / "styles_set.py"
SUBJECTS = [f"thing-{number}" for number in range(60)]


@pytest.fixture(name="styles_set")
def _styles_set(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    module = importlib.import_module(SCRIPT.stem)
    monkeypatch.setattr(module, "STYLES", dict(module.STYLES))
    return module


@pytest.fixture(name="tarballs")
def _tarballs(styles_set: ModuleType, tmp_path: Path) -> Path:
    """Packages of one colour each: sixty subjects, two that are left out, and one that a single style has."""
    for number, (name, style) in enumerate(styles_set.STYLES.items()):
        body = f'<path fill="#{"3456789a"[number] * 3}" d="M0 0h16v16H0z"/>'
        icons: dict[str, Any] = {subject: {"body": body} for subject in SUBJECTS}
        icons |= {"hand-dark": {"body": body}, "old": {"body": body, "hidden": True}}
        icons |= {"flag-of-nowhere": {"body": body, "width": 8}} if name == "noto" else {}
        info = {
            "name": name.title(),
            "author": {"name": f"Author of {name}", "url": "https://example.org"},
            "license": {"title": "CC BY 4.0", "spdx": "CC-BY-4.0", "url": "https://example.org/by"},
        }
        path = tmp_path / f"iconify-json-{name}-{style.version}.tgz"
        with tarfile.open(path, "w:gz") as tar:
            for part, content in (("icons", {"icons": icons, "height": 16}), ("info", info)):
                data = json.dumps(content).encode()
                entry = tarfile.TarInfo(f"package/{part}.json")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
        styles_set.STYLES[name] = style._replace(sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    return tmp_path


def test_a_held_out_cell_has_its_subject_in_three_other_styles(styles_set: ModuleType) -> None:
    cells = {(f"s{i}", style) for i in range(400) for style in list(styles_set.STYLES)[: 1 + i % 8]}
    apart = styles_set.held_out(cells)
    left = Counter(subject for subject, _ in cells - apart)
    assert all(left[subject] >= 3 for subject, _ in apart)
    assert 0.05 < len(apart) / len(cells) < 0.12
    assert apart == styles_set.held_out(cells | {("another", "noto")}), "adding a cell moves none"


def test_the_set_is_read_as_it_is_written(styles_set: ModuleType, tarballs: Path, tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    out = tmp_path / "set"
    styles_set.main([str(out), "--tarballs", str(tarballs), "--size", "16"])
    files = {"data_path": str(out / "images"), "captions_file": str(out / "captions.tsv")}
    data = ImageFolder(**files, held_out_file=str(out / "held_out.tsv"), img_size=16)
    assert ["byte for byte" in note for note in data.notes] == [True], "the drawings of this test are one"
    assert len(data.train) + len(data.validation) == 8 * len(SUBJECTS) + 1
    captions = {entry.id: entry.caption for entry in data.train.entries + data.validation.entries}
    assert captions["fluent-emoji-flat__thing-3.png"] == "thing 3, flat fluent style"
    assert Image.open(out / "images" / "emojione__thing-0.png").convert("RGB").getcolors() == [(256, (51, 51, 51))]
    narrow = Image.open(out / "images" / "noto__flag-of-nowhere.png").convert("RGB")
    assert (narrow.getpixel((1, 8)), narrow.size) == ((255, 255, 255), (16, 16)), "in the middle, not stretched"


def test_whose_the_drawings_are_is_said(styles_set: ModuleType, tarballs: Path) -> None:
    said = styles_set.licence(styles_set.opened(tarballs, "twemoji"), "twemoji", 128)
    assert said == (
        "Twemoji (@iconify-json/twemoji 1.2.5 on npm)\n  author:  Author of twemoji, https://example.org\n"
        "  licence: CC BY 4.0 (CC-BY-4.0), https://example.org/by\n"
        "  changed: drawn as PNG of 128 x 128 pixels on white\n"
    )


def test_another_package_than_the_expected_one_is_refused(styles_set: ModuleType, tarballs: Path) -> None:
    with (tarballs / "iconify-json-noto-1.2.9.tgz").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(SystemExit, match=r"iconify-json-noto-1\.2\.9\.tgz is another file: its SHA-256 is"):
        styles_set.opened(tarballs, "noto")
    (tarballs / "iconify-json-noto-1.2.9.tgz").unlink()
    with pytest.raises(SystemExit, match="there is no"):
        styles_set.opened(tarballs, "noto")
