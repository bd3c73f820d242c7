"""What a path on a command line means, whichever command it is given to."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from fluxflow_exp.errors import UserError
from fluxflow_exp.run import lookup
from fluxflow_exp.run.folder import RunFolder


def published(path: Path, index: int, parts: tuple[str, ...]) -> None:
    """A file that says that it holds `parts`."""
    facts = {
        "format": 1, "index": index, "kind": "ema", "model": {}, "trained": dict.fromkeys(parts, "vae"),
        "text_encoder": "embed", "img_size": None, "downscale": 8, "flow": None,
    }  # fmt: skip
    save_file({"x": np.zeros(1, np.float32)}, path, {"fluxflow_exp": json.dumps(facts)})


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs, one with published weights, the other moved aside; and a file that is no run's."""
    for name in ("vae", "vae.old-1"):
        RunFolder(tmp_path / "outputs" / name).create({}, {})
    autoencoder = ("compressor", "expander")
    published(tmp_path / "outputs" / "vae" / "weights" / "vae.safetensors", 1, autoencoder)
    published(tmp_path / "outputs" / "vae" / "weights" / "final.safetensors", 2, (*autoencoder, "flow_processor"))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "prompts.txt").touch()
    monkeypatch.chdir(tmp_path)
    return Path("outputs")


@pytest.mark.parametrize(
    "inside",
    ["", "weights", "weights/vae.safetensors", "config.yaml", "graph/../weights", "../vae", "../../outputs"],
)
def test_a_run_is_meant_by_all_that_stands_in_it_and_by_a_folder_of_it_alone(outputs: Path, inside: str) -> None:
    assert lookup.one(outputs / "vae" / inside).path.resolve() == (outputs / "vae").resolve()


def test_names_stay_as_they_were_given_and_each_run_comes_once(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [outputs / "vae" / "weights", outputs, (outputs / "vae").absolute()]
    assert [str(run.path) for run in lookup.several(given)] == ["outputs/vae"]
    assert len(lookup.several([outputs], aside=True)) == 2
    assert lookup.one(outputs / "vae.old-1").path == outputs / "vae.old-1"
    monkeypatch.chdir(outputs / "vae" / "weights")
    assert lookup.one(Path("final.safetensors")).path == Path.cwd().parent
    assert lookup.one(Path()).path == Path.cwd().parent


def test_a_run_whose_record_is_gone_is_one_all_the_same(outputs: Path) -> None:
    run = RunFolder(outputs / "vae")
    (run.checkpoints / "00-vae-00000001-a.pt").touch()
    run.record.unlink()
    assert lookup.one(run.weights).path == run.path


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("outputs/vea", "there is no file or folder outputs/vea; did you mean 'vae'?"),
        ("output/vae/weights", "there is no file or folder output; did you mean 'outputs'?"),
        ("outputs/vae/wieghts/x", "there is no file or folder outputs/vae/wieghts; did you mean 'weights'?"),
        ("elsewhere", "there is no file or folder elsewhere: name a run folder, e.g. outputs/quickstart"),
        ("notes", "there is no run in notes: name a run folder, e.g. outputs/quickstart"),
        ("notes/prompts.txt", "there is no run in notes/prompts.txt: name a run folder, e.g. outputs/quickstart"),
        ("outputs", "outputs holds 2 runs: name one of them: outputs/flow, outputs/vae"),
    ],
)
def test_what_means_no_single_run_is_answered(outputs: Path, path: str, said: str) -> None:
    RunFolder(outputs / "flow").create({}, {})
    with pytest.raises(UserError) as one:
        lookup.one(Path(path))
    assert str(one.value) == said
    if path != "notes/prompts.txt":  # a file may hold weights, which is seen where it is read
        with pytest.raises(UserError) as weights:
            lookup.final(Path(path))
        assert str(weights.value) == said


def test_all_paths_without_a_run_are_said(outputs: Path) -> None:
    with pytest.raises(UserError) as error:
        lookup.several([outputs, Path("notes"), Path("elsewhere")])
    assert [line.partition(":")[0] for line in error.value.args] == [
        "there is no run in notes",
        "there is no file or folder elsewhere",
    ]


def test_weights_are_a_file_or_those_of_the_run(outputs: Path, tmp_path: Path) -> None:
    final = outputs / "vae" / "weights" / "final.safetensors"
    for path in (outputs, outputs / "vae", final.parent, final, outputs / "vae" / "samples"):
        assert lookup.final(path) == final
    assert lookup.weights(final.with_name("vae.safetensors")) == final.with_name("vae.safetensors")
    with pytest.raises(UserError, match=r"config.yaml is no .safetensors file: name outputs/vae, or a file of"):
        lookup.final(outputs / "vae" / "config.yaml")
    with pytest.raises(UserError, match=r"vae.old-1 holds no weights/final.safetensors: it is written when the last"):
        lookup.final(outputs / "vae.old-1")
    with pytest.raises(
        UserError, match=r"there is no file outputs/vae/weights/fnal.safetensors: name outputs/.*/final"
    ):
        lookup.final(final.with_name("fnal.safetensors"))
    published(final, 2, ("compressor", "expander"))
    with pytest.raises(UserError, match=r"fnal.safetensors, and outputs/vae/weights/final.safetensors has no flow"):
        lookup.final(final.with_name("fnal.safetensors"))
    final.unlink()
    said = r"^there is no outputs/vae/weights/final.safetensors: it is written when the last step of a run ends"
    for name in ("final", "vea"):
        with pytest.raises(UserError, match=said):
            lookup.final(final.with_name(f"{name}.safetensors"))
    alone = tmp_path / "copied" / "weights"
    alone.mkdir(parents=True)
    assert lookup.weights(alone) == alone
    assert lookup.weights(alone.parent) == alone.parent


def test_files_are_proposed_that_hold_what_is_needed(outputs: Path) -> None:
    folder = outputs / "vae" / "weights"
    for name in ("flow.raw", "flow.lora", "torn"):
        (folder / f"{name}.safetensors").write_bytes(b"not whole" * 9)
    published(folder / "flow.safetensors", 3, ("flow_processor", "text_encoder"))

    def said(name: str, *parts: str) -> str:
        with pytest.raises(UserError) as error:
            lookup.weights(folder / name, parts=parts)
        return str(error.value)

    assert said("fnal.safetensors") == (
        f"there is no file {folder}/fnal.safetensors: name {folder}/final.safetensors or {folder}/flow.safetensors or "
        f"{folder}/vae.safetensors"
    )
    assert said("vea.safetensors", "flow_processor").endswith(
        f": name {folder}/final.safetensors or {folder}/flow.safetensors"
    )
    (folder / "final.safetensors").unlink()
    assert said("final.safetensors", "compressor", "expander") == (
        f"there is no file {folder}/final.safetensors, which is written when the last step of a run ends: "
        f"name {folder}/vae.safetensors"
    )
    assert said("x.safetensors", "expander", "text_encoder") == (
        f"there is no file {folder}/x.safetensors, and no file in {folder} holds expander and text_encoder"
    )
