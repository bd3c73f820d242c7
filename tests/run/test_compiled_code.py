"""Compiled code comes back whole, is told from damage, and never stands in a run's way."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fluxflow_exp.run import compiled_code
from fluxflow_exp.run.compiled_code import CompiledCode


class Torch:
    """Torch's side: what it has compiled, and what it was given back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: dict[str, bytes] = {}
        self.given: list[bytes] = []
        monkeypatch.setattr(torch.compiler, "save_cache_artifacts", self.save)
        monkeypatch.setattr(torch.compiler, "load_cache_artifacts", self.load)

    def save(self) -> tuple[bytes, Any] | None:
        return (repr(self.made).encode(), self.info()) if self.made else None

    def load(self, content: bytes) -> Any:
        self.given.append(content)
        return self.info()

    def info(self) -> Any:
        return SimpleNamespace(artifacts={"inductor": list(self.made)})


@pytest.fixture
def its(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Torch:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    return Torch(monkeypatch)


def kernel(of: CompiledCode, name: str, content: bytes = b"") -> Path:
    """Triton's folder of a kernel: its code, and a list that names it with the folder's path."""
    folder = Path(os.environ["TRITON_CACHE_DIR"]) / f"HASH-{name}"
    folder.mkdir(parents=True)
    (folder / f"{name}.cubin").write_bytes(content)
    (folder / f"__grp__{name}.json").write_text(str(folder / f"{name}.cubin"))
    return folder


def test_code_comes_back_in_another_place(its: Torch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = CompiledCode([tmp_path / "cache"], "key")
    kernel(code, "_forward_kernel", b"\x00code")
    kernel(code, "triton_poi_fused_add", b"torch keeps it")
    its.made = {"graph": b"1"}
    assert code.save("vae", 1.0) == ""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.delenv("TRITON_CACHE_DIR")
    said = CompiledCode([tmp_path / "cache"], "key").load("vae")
    place = tmp_path / "elsewhere" / "triton" / "key" / "HASH-_forward_kernel"
    assert "compiled-vae-key.bin" in said
    assert its.given == [repr(its.made).encode()]
    assert (place / "_forward_kernel.cubin").read_bytes() == b"\x00code"
    assert (place / "__grp___forward_kernel.json").read_text() == str(place / "_forward_kernel.cubin")
    assert [each.name for each in place.parent.iterdir()] == [place.name]


def test_what_is_loaded_again_is_told_once_and_what_this_start_has_made_is_no_earlier_ones(
    its: Torch, tmp_path: Path
) -> None:
    """Steps that were given minutes are looked at in turn before the first of them trains."""
    its.made = {"graph": b"1"}
    CompiledCode([tmp_path], "key").save("vae", 1.0)
    code = CompiledCode([tmp_path], "key")
    assert code.load("vae").startswith("Compiled code of an earlier start: ")
    assert code.load("flow") == ""
    code.save("flow", 1.0)
    assert (tmp_path / "compiled-flow-key.bin").exists()
    assert (code.load("vae"), code.load("flow")) == ("", "")
    assert len(its.given) == 3
    (tmp_path / "compiled-vae-key.bin").write_bytes(b"\0")
    assert "is damaged" in code.load("vae")


def test_it_is_written_again_only_when_there_is_more(its: Torch, tmp_path: Path) -> None:
    path = tmp_path / "compiled-vae-key.bin"
    its.made = {"graph": b"1"}
    CompiledCode([tmp_path], "key").save("vae", 1.0)
    code = CompiledCode([tmp_path], "key")
    code.load("vae")
    os.utime(path, (1, 1))
    code.save("vae", 2.0)
    assert path.stat().st_mtime == 1
    its.made["more"] = b"2"
    code.save("vae", 2.0)  # nothing was compiled since
    assert path.stat().st_mtime == 1
    code.save("vae", 3.0)
    assert path.stat().st_mtime > 1


def test_the_mirror_has_it_when_the_disk_is_lost_or_damaged(its: Torch, tmp_path: Path) -> None:
    folders = [tmp_path / "disk", tmp_path / "mirror"]
    near, far = (folder / "compiled-vae-key.bin" for folder in folders)
    its.made = {"graph": b"1"}
    CompiledCode(folders, "key").save("vae", 1.0)
    assert near.read_bytes() == far.read_bytes()
    for damage in (lambda: near.unlink(), lambda: near.write_bytes(near.read_bytes()[:-1] + b"?")):
        damage()
        its.given.clear()
        code = CompiledCode(folders, "key")
        said = code.load("vae")
        assert str(far) in said
        assert len(its.given) == 1
        assert ("is damaged" in said) == near.exists()
        code.save("vae", 2.0)
        assert near.read_bytes() == far.read_bytes()


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 500])
def test_a_damaged_file_is_told_and_nothing_is_taken_from_it(its: Torch, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "compiled-vae-key.bin"
    path.write_bytes(content)
    code = CompiledCode([tmp_path], "key")
    assert code.load("vae") == f"Note: {path} is damaged; what it held is compiled anew"
    assert its.given == []
    its.made = {"graph": b"1"}
    assert code.save("vae", 1.0) == ""
    assert "MB" in CompiledCode([tmp_path], "key").load("vae")


def test_a_folder_that_cannot_be_written_is_told_once(its: Torch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code = CompiledCode([tmp_path / "file"], "key")
    its.made = {"graph": b"1"}
    assert "the next start compiles anew" in code.save("vae", 1.0)
    its.made["more"] = b"2"
    assert code.save("vae", 2.0) == ""


@pytest.mark.parametrize("error", [RuntimeError("planted\nmore"), KeyError("kind"), MemoryError(), OSError(28, "full")])
def test_what_torch_cannot_do_is_a_line_and_ends_nothing(
    its: Torch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    its.made = {"graph": b"1"}
    CompiledCode([tmp_path], "key").save("vae", 1.0)
    monkeypatch.setattr(torch.compiler, "load_cache_artifacts", fail)
    monkeypatch.setattr(torch.compiler, "save_cache_artifacts", fail)
    code = CompiledCode([tmp_path], "key")
    for said in (code.load("vae"), code.save("vae", 1.0)):
        assert type(error).__name__ in said
        assert "compile" in said
        assert "\n" not in said
    assert code.save("vae", 2.0) == ""  # told once


def test_what_torch_does_not_take_is_looked_for_in_the_mirror(
    its: Torch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    its.made = {"graph": b"1"}
    CompiledCode([tmp_path / "disk", tmp_path / "mirror"], "key").save("vae", 1.0)
    answers = [None, its.info()]
    monkeypatch.setattr(torch.compiler, "load_cache_artifacts", lambda _: answers.pop(0))
    first, second = CompiledCode([tmp_path / "disk", tmp_path / "mirror"], "key").load("vae").splitlines()
    assert first.startswith(f"Note: {tmp_path / 'disk'}")
    assert second.endswith(str(tmp_path / "mirror" / "compiled-vae-key.bin"))


def test_a_kernel_is_listed_when_all_its_files_are_there(
    its: Torch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton takes a kernel that is listed for whole, and fails without one of its files."""
    code = CompiledCode([tmp_path / "cache"], "key")
    made = kernel(code, "_forward_kernel", b"[FOLDER] is code")
    its.made = {"graph": b"1"}
    code.save("vae", 1.0)
    shutil.rmtree(made)
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.suffix == ".cubin":
            raise OSError(28, "No space left on device")
        return write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        assert "compiled anew" in CompiledCode([tmp_path / "cache"], "key").load("vae")
    assert list(made.iterdir()) == []
    CompiledCode([tmp_path / "cache"], "key").load("vae")
    assert (made / "_forward_kernel.cubin").read_bytes() == b"[FOLDER] is code"
    assert (made / "__grp___forward_kernel.json").is_file()


def test_what_was_not_used_for_longest_goes(its: Torch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_code, "LIMIT_BYTES", 800)
    for age, name in enumerate(("new", "old")):
        (tmp_path / f"compiled-vae-{name}.bin").write_bytes(b"x" * 400)
        os.utime(tmp_path / f"compiled-vae-{name}.bin", (100 - age, 100 - age))
    (tmp_path / "latents-1").mkdir()
    its.made = {"graph": b"1"}
    CompiledCode([tmp_path], "key").save("vae", 1.0)
    assert sorted(path.name for path in tmp_path.glob("*-*")) == [
        "compiled-vae-key.bin",
        "compiled-vae-new.bin",
        "latents-1",
    ]


def test_what_a_killed_process_had_half_written_goes(its: Torch, tmp_path: Path) -> None:
    old, new = (tmp_path / f"tmp-{number}-compiled-vae-key.bin" for number in (1, 2))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    its.made = {"graph": b"1"}
    CompiledCode([tmp_path], "key").save("vae", 1.0)
    assert (old.exists(), new.exists()) == (False, True)


def test_triton_stays_where_the_user_wants_it(its: Torch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "mine"))
    CompiledCode([tmp_path], "key")
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "mine")


@pytest.mark.slow
def test_graphs_of_torch_come_back_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.utils import counters
    from torch._inductor import codecache

    def once(folder: str) -> tuple[list[Tensor], int]:
        code = CompiledCode([tmp_path / "cache"], "key")  # of a start
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / folder))
        torch._dynamo.reset()
        codecache.PyCodeCache.cache_clear()
        counters.clear()
        said = code.load("vae")
        assert ("Compiled code" in said) == (folder == "second")
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), nn.SiLU())
        model.compile(dynamic=False)
        for seconds, rows in ((1.0, 4), (2.0, 5)):  # a shape that is met later is kept beside the first
            model(torch.randn(rows, 8)).square().sum().backward()
            assert code.save("vae", seconds) == ""
        return [p.grad for p in model.parameters() if p.grad is not None], counters["inductor"]["fxgraph_cache_hit"]

    fresh, none = once("first")
    kept, hits = once("second")
    assert none == 0
    assert hits == 4
    assert all(map(torch.equal, fresh, kept))
