"""From a run to a folder by the command, and what it refuses."""

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from fluxflow_exp import files, pipeline
from fluxflow_exp.export import card
from fluxflow_exp.export.command import cli
from fluxflow_exp.export.source import read
from fluxflow_exp.models import lora, weights
from fluxflow_exp.run import judged, summary
from fluxflow_exp.run.folder import RunFolder
from tests.conftest import toy
from tests.helpers.exported import MODELS, publish


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    pipeline.run(toy(root))
    return root / "quickstart"


def export(monkeypatch: pytest.MonkeyPatch, *words: object) -> int | None:
    monkeypatch.setattr(sys, "argv", ["export", *map(str, words)])
    return cli()


@pytest.mark.parametrize("to", ["diffusers", "comfyui"])
def test_a_run_becomes_a_folder_whose_card_tells_what_it_recorded(
    run: Path, tmp_path: Path, to: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "out"
    assert export(monkeypatch, run, out, "--to", to) is None
    said = capsys.readouterr().out
    assert said.startswith(f"Reading {run}\n")
    assert f"Its model card: {out}/README.md; it states no licence (--license NAME does)" in said
    card = (out / "README.md").read_text(encoding="utf-8")
    for told in (
        "| data | `shapes` |",
        "| pictures seen in flow | 64 |",
        "| PSNR | ",
        {"diffusers": "guidance_scale=4.0, seed=0)", "comfyui": "judged with guidance_scale 4."}[to],
        "| flow_processor | `flow.FlowProcessor` | 31,574 | flow |",
        "Not stated.",
        "run | `quickstart`",
    ):
        assert told in card
    assert [path.name for path in out.parent.iterdir()] == ["out"], "nothing is left over"


def test_the_card_lists_what_was_measured_of_the_exported_weights_alone(run: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(run, tmp_path / "run")
    done = {name: step["updates"] for name, step in RunFolder(copied).read_record()["steps"].items()}
    measured = {
        "unit": None, "n": 8, "guidance": None, "implementation": "by", "features": None, "sampler": None, "data": [],
    }  # fmt: skip
    results = [
        {**measured, "metric": "ssim", "value": 0.1, "step": "vae", "update": done["vae"], "ema": True},  # superseded
        {**measured, "metric": "ssim", "value": 0.2, "step": "vae_gan", "update": done["vae_gan"], "ema": True},
        {**measured, "metric": "fd", "value": 3.0, "step": "flow", "update": done["flow"] - 1, "ema": True},  # outdated
        {
            **measured,
            "metric": "fd",
            "value": 4.0,
            "step": "flow",
            "update": done["flow"],
            "ema": True,
            "guidance": 2.0,
        },
        {**measured, "metric": "fd", "value": 5.0, "step": "flow", "update": done["flow"], "ema": False},
        {
            **measured,
            "metric": "fd",
            "value": 6.0,
            "step": "flow",
            "update": done["flow"],
            "ema": True,
            "last_share": 0.75,
        },
    ]
    for name in ("final", "flow"):  # measured twice, of the same weights
        files.write_json(copied / "evaluations" / f"{name}.json", {"results": results})

    def text_of(kind: str, **facts: Any) -> str:
        source = read(copied, kind=kind)
        source.facts.update(facts)
        return card.card(source, "", tmp_path / "out", licence=None, library="diffusers")

    def rows(kind: str, **facts: Any) -> list[list[str]]:
        lines = text_of(kind, **facts).split("## Metrics")[1].split("##")[0].splitlines()
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]

    (head, _, *averaged), raw = rows("ema"), rows("raw")
    assert head == ["on held-out data", "value", "unit", "n", "guidance", "step", "measured by"]
    assert averaged[:2] == [
        ["SSIM", "0.2", "", "8", "", "vae_gan", "by"],
        ["FD", "4", "", "8", "2", "flow", "by"],
    ]
    assert next(row for row in averaged if row[0] == "PSNR")[-2:] == ["vae_gan", "fluxflow_exp, while training"]
    assert "vae" not in [row[-2] for row in averaged]
    assert len(averaged) == len({tuple(row) for row in averaged})
    assert [row[1] for row in raw if row[0] == "FD"] == ["5"]
    best = {"flow": done["flow"] - 1}
    assert [row[1] for row in rows("ema", best=best) if row[0] == "FD"] == ["3"]
    assert [row[1] for row in rows("ema", best=best, last_share=0.75) if row[0] == "FD"] == ["6"]
    point = f"(ema, step flow between update {best['flow']:,}, its best point, and its end (0.75 of the way))"
    assert point in text_of("ema", best=best, last_share=0.75)


@pytest.mark.parametrize(
    ("evaluation", "called", "told"),
    [
        ({}, ", guidance_scale=4.0", " --use_cfg --guidance_scale 4"),
        (
            {"guidance_scale": 2.5, "guidance_interval": [0, 1]},
            ", guidance_scale=2.5",
            " --use_cfg --guidance_scale 2.5",
        ),
        (
            {"guidance_scale": 3, "guidance_interval": [0, 0.8]},
            ", guidance_scale=3.0, guidance_interval=(0, 0.8)",
            " --use_cfg --guidance_scale 3 --guidance_interval 0 0.8",
        ),
        ({"guidance_scale": 1.0, "guidance_interval": [0, 0.8]}, "", ""),
    ],
)
def test_hints_have_the_guidance_that_the_run_is_judged_at(
    evaluation: dict[str, Any], called: str, told: str, tmp_path: Path
) -> None:
    step = {"trainer": {"objective": {}}, "cfg_dropout_prob": 0.1}
    values = {"evaluation": evaluation, "stage": {"steps": {"flow": step}}}
    assert card.arguments(judged.guidance(values)) == called
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    assert summary._guidance(RunFolder(tmp_path)) == told


def test_raw_weights_are_those_as_last_trained(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("ema", "raw"):
        assert export(monkeypatch, run, tmp_path / kind, "--to", "comfyui", "--weights", kind) is None
    ema, raw = (load_file(tmp_path / kind / "model.safetensors") for kind in ("ema", "raw"))
    trained = load_file(run / "weights" / "flow.raw.safetensors")["flow_processor.out.weight"]
    assert raw["flow_processor.out.weight"].tolist() == trained.tolist() != ema["flow_processor.out.weight"].tolist()
    assert weights.read_facts(tmp_path / "raw" / "model.safetensors")["kind"] == "raw"


def test_an_adapter_is_merged(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    final, name = run / "weights" / "final.safetensors", "blocks.0.mlp.0"
    state = weights.read_part(final, "flow_processor")
    wide, narrow = state[f"{name}.weight"].shape
    pair = {f"{name}.lora_A.weight": torch.randn(2, narrow), f"{name}.lora_B.weight": torch.randn(wide, 2)}
    facts = lora.Facts(rank=2, alpha=4.0, targets=[], base={"flow_processor": lora.base_digest(state)})
    adapter = tmp_path / "tuned" / "weights" / "mine.lora.safetensors"
    lora.publish(adapter, {"flow_processor": pair}, facts)
    words = (run, tmp_path / "out", "--to", "comfyui", "--lora", tmp_path / "tuned", "--lora_scale", "0.5")
    assert export(monkeypatch, *words) is None
    found = load_file(tmp_path / "out" / "model.safetensors")[f"flow_processor.{name}.weight"]
    change = pair[f"{name}.lora_B.weight"] @ pair[f"{name}.lora_A.weight"]
    torch.testing.assert_close(found, state[f"{name}.weight"] + change)  # 0.5 · alpha / rank is 1
    assert "| with the adapter | `mine.lora.safetensors`, 0.5 times, " in (tmp_path / "out" / "README.md").read_text()
    capsys.readouterr()
    assert export(monkeypatch, run, tmp_path / "two", "--to", "comfyui", "--lora_scale", "0.5") == 2
    assert "--lora_scale" in capsys.readouterr().err
    assert export(monkeypatch, run, tmp_path / "two", "--to", "comfyui", "--lora", final) == 2
    assert "--lora: " in (said := capsys.readouterr().err)
    assert "is no adapter" in said


def test_a_folder_that_holds_something_is_left_alone(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert export(monkeypatch, run, tmp_path / "out", "--to", "diffusers") == 2
    assert f"{tmp_path / 'out'} is there already" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert export(monkeypatch, run, tmp_path / "empty", "--to", "diffusers") is None
    assert export(monkeypatch, run, tmp_path / "new", "--to", "diffusers", "--license", "do: what") == 2
    assert "--license is one word" in capsys.readouterr().err


def test_what_cannot_be_exported_is_one_error(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = publish(tmp_path / "own.safetensors", "tiny", *MODELS["tiny"])
    facts = weights.read_facts(own)
    facts["model"]["expander"]["_target_"] = "mine.Expander"
    weights.publish(own, {part: weights.read_part(own, part) for part in facts["trained"]}, facts)
    (tmp_path / "empty").mkdir()
    for source, told in (
        (own, "its expander is built with mine.Expander, which is none of this package's models"),
        (tmp_path / "none.safetensors", "there is no file"),
        (tmp_path / "empty", "there is no run in"),
        (run / "weights" / "vae.safetensors", "holds no flow_processor"),
    ):
        assert export(monkeypatch, source, tmp_path / "out", "--to", "comfyui") == 2
        said = capsys.readouterr().err
        assert told in said
        assert said.count("error") == 1
        assert not (tmp_path / "out").exists()


def test_a_part_that_a_step_only_used_was_trained_before(run: Path, tmp_path: Path) -> None:
    """As the autoencoder of a flow that began from another run's."""
    copied = shutil.copytree(run, tmp_path / "run")
    source = read(copied)
    source.facts["trained"]["expander"] = "flow"
    told = card.card(source, "", tmp_path / "out", licence=None, library="diffusers")
    assert "| expander | `compact_vae.Expander` | " in told
    assert re.search(r"\| expander \|.*\| before this run \|\n\| flow_processor \|.*\| flow \|", told)
