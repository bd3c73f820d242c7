"""Data and weights that change under a run: not trained on unasked, and of no matter to what is finished."""

import io
import shutil
import tarfile
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fluxflow_exp import pipeline
from fluxflow_exp.config.compose import resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.console import Console
from fluxflow_exp.data.build import digest_of
from fluxflow_exp.data.image_folder import ImageFolder
from fluxflow_exp.data.protocols import notes_of
from fluxflow_exp.data.shapes import Shapes
from fluxflow_exp.data.webdataset import WebDataset
from fluxflow_exp.errors import UserError
from fluxflow_exp.run import digest_list, opening
from fluxflow_exp.run.checkpoint import CheckpointStore
from fluxflow_exp.run.folder import RunFolder, run_path
from fluxflow_exp.run.identity import identity_digest
from fluxflow_exp.run.inputs import _contents
from fluxflow_exp.run.summary import is_finished
from tests.conftest import TOY, TOY_STEPS
from tests.run.conftest import prepared

pytestmark = pytest.mark.usefixtures("quick")
ALONE = {"vae": "~stage.steps.flow", "flow": "~stage.steps.vae"}


def write_pictures(folder: Path, first: int, last: int, *, size: int = 16) -> None:
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    for i in range(first, last):
        Image.new("RGB", (size, size), (4 * i, 0, 0)).save(images / f"{i}.png")
    names = sorted(int(p.stem) for p in images.glob("*.png"))
    (folder / "captions.tsv").write_text("".join(f"{i}.png\tpicture {i}\n" for i in names))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_pictures(tmp_path / "data", 0, 40)
    return tmp_path / "data"


@cache
def _composed(*overrides: str) -> dict[str, Any]:
    small = [each for each in [*TOY, *TOY_STEPS] if not each.startswith(("data.n_images", "+data.n_validation"))]
    folder = ["data=image_folder", "data.data_path=.", "data.captions_file=."]
    return resolve(compose_config(["stage=quickstart", *small, *folder, "~stage.steps.vae_gan", *overrides]))


def values(data: Path, *overrides: str, **others: str) -> dict[str, Any]:
    """A toy run on the pictures in `data`; composing it anew each time would take longer than all else."""
    given = deepcopy(_composed(*overrides))
    given["data"] |= {"data_path": str(data / "images"), "captions_file": str(data / "captions.tsv")}
    return given | {"output_root": str(data.parent / "out")} | others


class Said(Console):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines = ""

    def say(self, text: str) -> None:
        self.lines += f"{text}\n"


def start(asked: dict[str, Any]) -> tuple[RunFolder, str, str]:
    """A run folder as a command leaves it that is killed before its first update; how it was opened, what was said."""
    folder, asked, lengths, data, _ = prepared(asked)
    said = Said()
    opened = opening.open_run(folder, asked, lengths, data, said, machine="here")
    folder.unlock()
    return folder, opened, said.lines


def stand_at(folder: RunFolder, step: str, update: int, *, finished: bool = False) -> None:
    index = list(folder.frozen()["stage"]["steps"]).index(step) + 1
    store = CheckpointStore(folder.checkpoints, run=identity_digest(folder.frozen()))
    store.save({"update": update}, index=index, step=step, update=update, final=finished)
    if finished:
        record = folder.read_record()
        folder.write_record({**record, "steps": {**record["steps"], step: {"updates": update}}})


def more_pictures(data: Path) -> None:
    write_pictures(data, 40, 80)


def other_captions(data: Path) -> None:
    (data / "captions.tsv").write_text((data / "captions.tsv").read_text().replace("picture 7", "a red square"))


def other_files(data: Path) -> None:
    write_pictures(data, 3, 5, size=64)


def renamed(data: Path) -> None:
    (data / "images" / "5.png").rename(data / "images" / "1005.png")
    write_pictures(data, 0, 0)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (more_pictures, r"the data of vae and flow: 37 training and 3 held-out samples then, 7\d and \d now"),
        (other_captions, "as many samples as then, with other captions"),
        (other_files, "as many samples as then, with other sizes of files"),
        (renamed, "as many samples as then, with other names and captions"),
    ],
)
def test_changed_data_are_refused_and_gone_on_with_if_asked(data: Path, change: Any, what: str) -> None:
    asked = values(data)
    folder, _, _ = start(asked)
    stand_at(folder, "vae", 3)
    before = folder.read_record()
    change(data)
    with pytest.raises(UserError, match=rf"(?s){what}.*resume=extend.*name=.*resume=fresh"):
        start(asked)
    assert folder.read_record() == before
    _, opened, said = start({**asked, "resume": "extend"})
    assert opened == "continued"
    assert "Going on with what has changed" in said
    record = folder.read_record()
    assert record["changes"][0]["after"] == {"vae": 3, "flow": 0}
    assert record["data"]["vae"].startswith(f"{before['data']['vae']}, then ")  # equal to no other run's
    assert start(asked)[1] == "continued"  # what was accepted once is what the run is made from


def test_moved_data_streams_and_runs_of_earlier_versions_go_on(data: Path, tmp_path: Path) -> None:
    folder, _, _ = start(values(data))
    shutil.copytree(data, tmp_path / "moved")
    shutil.rmtree(data)
    moved = values(tmp_path / "moved")
    assert start(moved)[1] == "continued"
    record = folder.read_record()
    more_pictures(tmp_path / "moved")
    folder.write_record({**record, "contents": {"vae": None, "flow": None}, "data": {"vae": None, "flow": None}})
    assert start(moved)[1] == "continued"
    earliest = {k: v for k, v in record.items() if k not in ("contents", "data", "pretrained", "planned")}
    folder.write_record(earliest)
    assert start(moved)[1] == "continued"
    write_pictures(tmp_path / "moved", 80, 90)
    with pytest.raises(UserError, match="samples then"):  # from then on it is recorded
        start(moved)
    folder.write_record({**earliest, "data": record["data"]})
    with pytest.raises(UserError, match="another digest"):
        start(moved)


def test_a_finished_step_stays_finished(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest_list, "check_finished", lambda folder, steps: None)  # nothing is published here
    folder, _, _ = start(values(data))
    planned = folder.read_record()["planned"]
    for step in ("vae", "flow"):
        stand_at(folder, step, planned[step]["updates"], finished=True)
    more_pictures(data)
    folder.summary.write_text("{}")
    folder, opened, said = start(values(data))
    assert opened == "complete"
    assert "step vae is finished; its data are not what it was trained on: 37 training" in said
    record = folder.read_record()
    folder.summary.unlink()
    folder.write_record({**record, "steps": {"vae": record["steps"]["vae"]}})
    with pytest.raises(UserError, match="the data of flow: 37"):
        start(values(data))
    assert start(values(data, resume="extend"))[1] == "continued"
    record = folder.read_record()
    assert is_finished(record["steps"]["vae"], record["planned"]["vae"])
    assert record["planned"]["flow"]["updates"] > planned["flow"]["updates"]


def test_a_finished_run_publishes_nothing_again(data: Path) -> None:
    asked = values(data, ALONE["vae"], "stage.steps.vae.n_epochs=1")
    pipeline.run(asked)
    run = run_path(asked)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    more_pictures(data)
    pipeline.run(asked)
    assert {p: p.read_bytes() for p in before} == before
    (run / "summary.json").unlink()  # killed before the last file
    pipeline.run(asked)
    weights = {p: content for p, content in before.items() if p.parent.name == "weights"}
    assert {p: p.read_bytes() for p in weights} == weights


def test_a_step_never_stands_behind_its_end(data: Path) -> None:
    folder, _, _ = start(values(data))
    stand_at(folder, "vae", 8)
    write_pictures(data, 0, 0)
    shutil.rmtree(data)
    write_pictures(data, 0, 20)
    before = folder.read_record()
    with pytest.raises(UserError, match="step vae stands at update 8, and would now end after 4"):
        start(values(data, resume="extend"))
    assert folder.read_record() == before


def test_an_extension_is_not_lost_between_record_and_configuration(data: Path) -> None:
    folder, _, _ = start(values(data, ALONE["flow"]))
    stand_at(folder, "flow", 8, finished=True)
    folder.summary.write_text("{}")
    longer = values(data, ALONE["flow"], "stage.steps.flow.n_epochs=3", resume="extend")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "freeze", lambda *_: 1 / 0)  # killed
        with pytest.raises(ZeroDivisionError):
            start(longer)
    assert start(longer)[1] == "continued"
    assert folder.frozen()["stage"]["steps"]["flow"]["n_epochs"] == 3
    assert start(longer)[1] == "continued"  # and again, before it has trained
    assert folder.read_record()["steps"] == {}
    stand_at(folder, "flow", 9)
    with pytest.raises(UserError, match="would now end after 4"):
        start(values(data, ALONE["flow"], "stage.steps.flow.n_epochs=1", resume="extend"))


def test_weights_and_pretrained_files_that_changed_are_refused(data: Path, tmp_path: Path) -> None:
    encoder, trunk = tmp_path / "encoder", tmp_path / "trunk.pth"
    encoder.mkdir()
    (encoder / "model.safetensors").write_bytes(b"weights")
    trunk.write_bytes(b"weights")
    asked = values(data)
    asked["model"]["text_encoder"]["name"] = str(encoder)
    asked["stage"]["steps"]["vae"]["trainer"]["perceptual"] = {"weights_file": str(trunk)}
    start(asked)
    trunk.rename(tmp_path / "moved.pth")
    asked["stage"]["steps"]["vae"]["trainer"]["perceptual"]["weights_file"] = str(tmp_path / "moved.pth")
    assert start(asked)[1] == "continued"
    for path in (encoder / "model.safetensors", tmp_path / "moved.pth"):
        path.write_bytes(path.name.encode())
        with pytest.raises(UserError, match=rf"{path} has changed\n.*resume=extend"):
            start(asked)
        folder, opened, _ = start({**asked, "resume": "extend"})
        assert opened == "continued"
        assert any(", then " in digest for digest in folder.read_record()["pretrained"].values())


def test_data_are_known_by_the_digests_of_earlier_versions(tmp_path: Path) -> None:
    pictures = {f"{i}.png": b"x" * (100 + i) for i in range(30)}
    for name, content in pictures.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "captions.tsv").write_text("".join(f"{name}\tpicture {name[:-4]}\n" for name in pictures))
    with tarfile.open(tmp_path / "a.tar", "w") as shard:
        for name, content in pictures.items():
            for member, data in ((name, content), (f"{name[:-4]}.txt", f"picture {name[:-4]}".encode())):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                shard.addfile(info, io.BytesIO(data))
    folder = ImageFolder(data_path=str(tmp_path), captions_file=str(tmp_path / "captions.tsv"), img_size=16)
    sets = (folder, WebDataset(urls=str(tmp_path / "a.tar"), img_size=16), Shapes(n_images=32))
    assert [digest_of(each) for each in sets] == ["8b86d5f7cb550e50", "1a2ac505c365d2d1", "216a7d6eec56ad19"]


def test_a_checkpoint_of_another_run_is_not_continued(tmp_path: Path) -> None:
    stores = [CheckpointStore(tmp_path, run=run) for run in ("a" * 16, "b" * 16, None)]
    path = stores[0].save({"update": 5}, index=1, step="vae", update=5)
    assert stores[0].load(path)["update"] == stores[2].load(path)["update"] == 5
    with pytest.raises(UserError, match="saved by a run with another configuration"):
        stores[1].load(path)
    older = stores[2].save({"update": 6}, index=1, step="vae", update=6)
    assert stores[1].load(older)["update"] == 6


class Own:
    """A source and a data set with the members that data sets had before they told of their contents."""

    def __init__(self, drawn: Any) -> None:
        self._drawn = drawn

    def __getattr__(self, name: str) -> Any:
        if name in ("notes", "contents"):
            raise AttributeError(name)
        found = getattr(self._drawn, name)
        return Own(found) if name in ("train", "validation") else found

    def __len__(self) -> int:
        return len(self._drawn)


def test_a_data_set_of_ones_own_need_not_tell_of_its_contents() -> None:
    own: Any = Own(Shapes(img_size=16, n_images=8, n_validation=4))
    assert notes_of(own) == []
    assert _contents(own) is None
    assert _contents(own._drawn) is not None
