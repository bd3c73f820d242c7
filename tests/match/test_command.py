"""`python -m fluxflow_exp.match`: a model as large as another one.

Covers match/arguments, axes, fit, widths and output as well.
"""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from fluxflow_exp.config.compose import resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.match.arguments import Asked
from fluxflow_exp.match.command import main
from fluxflow_exp.match.fit import _widths
from fluxflow_exp.match.output import commands
from fluxflow_exp.match.widths import Model, model_of
from fluxflow_exp.models import weights
from fluxflow_exp.models.compact_vae import shortcuts
from tests.conftest import TOY

pytestmark = pytest.mark.usefixtures("garbage_apart")

LIKE = ["--like", "model.activation=bezier"]
WIDER = ["--like", "model.compressor.widths=[20,28,48]"]
SMALL = [each for each in TOY if not each.startswith(("hardware", "stage", "model.compressor"))]
VAE = [
    *SMALL, "hardware=h200", "hardware.compile=false", "stage=vae", "stage.steps.vae.batch_size=4", "model=tiny",
    "model.compressor.widths=[16,24,40]", "model.activation=silu",
]  # fmt: skip


def parameters(values: dict[str, Any], *parts: str) -> int:
    return sum(p.numel() for part in parts for p in weights.outline(values["model"][part]).parameters())


def test_parameters_are_equal_to_a_hundredth_and_the_file_is_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    assert main([*VAE, *LIKE, *WIDER, "--axis", "params", "--out", str(tmp_path), "--json", str(out)]) == 0
    said = capsys.readouterr().out
    found = json.loads(out.read_text())
    like = resolve(compose_config([*VAE, "model.activation=bezier", WIDER[1]]))
    target = parameters(like, "compressor", "expander")
    assert found["target"] == found["reference"]["parameters"] == target
    shared = [each for each in VAE if not each.startswith("model")]
    made = resolve(compose_config([*shared, "model=tiny_silu_params"], config_dir=str(tmp_path)))
    assert made["model"]["name"] == "tiny_silu_params"
    assert made["model"]["activation"] == made["model"]["expander"]["activation"] == "silu"
    assert made["model"]["vae_dim"] == 4  # the command's own keys are in the file
    count = parameters(made, "compressor", "expander")
    assert count == found["candidate"]["parameters"] == found["reached"]
    assert abs(count / target - 1) <= 0.01
    assert made["model"]["compressor"]["widths"] == made["model"]["expander"]["widths"] != [16, 24, 40]
    line = said.splitlines()[-1].strip()  # the same by overrides alone
    again = resolve(compose_config([*shared, *shlex.split(line)]))
    again["model"]["name"] = "tiny_silu_params"
    assert again["model"] == made["model"]
    assert "Train it with" in said
    assert "NOT MATCHED" not in said
    for word in ("TFLOP an image", "peak memory", "s an update (h200)", "expander", f"{count / target - 1:+.2%}"):
        assert word in said


@pytest.mark.slow
def test_work_is_equal_to_two_hundredths_where_parameters_are_not(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert main([*VAE, *WIDER, "--axis", "flops", "--out", str(tmp_path), "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert abs(found["candidate"]["tflop"] / found["reference"]["tflop"] - 1) <= 0.02
    assert found["reference"]["activation"] == "silu"
    assert found["candidate"]["tflop_per_image"] == pytest.approx(found["candidate"]["tflop"] / 4)


@pytest.mark.slow
@pytest.mark.parametrize("axis", ["memory", "time"])
def test_predicted_axes_are_those_of_the_card(tmp_path: Path, axis: str) -> None:
    out = tmp_path / "out.json"
    code = main([*VAE, *LIKE, "--axis", axis, "--out", str(tmp_path), "--json", str(out)])
    found = json.loads(out.read_text())
    key = {"memory": "peak_gib", "time": "busy"}[axis]
    assert found["target"] == found["reference"][key]
    assert found["reached"] == found["candidate"][key]
    assert (code == 0) == (abs(found["reached"] / found["target"] - 1) <= 0.02)


@pytest.mark.slow
def test_a_flow_transformer_is_matched_by_width_and_mlp(tmp_path: Path) -> None:
    flow = ["stage=full", "--step", "flow", "hardware=h200", "hardware.compile=false", "model.activation=silu"]
    sizes = ["model=tiny", "--like", "model.flow_processor.width=144", "--like", "model.flow_processor.heads=4"]
    out = tmp_path / "out.json"
    assert main([*flow, *sizes, "--axis", "params", "--out", str(tmp_path), "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert set(found["candidate"]["parts"]) == {"flow_processor"}
    assert abs(found["difference"]) <= 0.01
    made = resolve(compose_config(["stage=full", "model=tiny_silu_params"], config_dir=str(tmp_path)))
    assert parameters(made, "flow_processor") == found["reached"]


@pytest.mark.slow
def test_times_are_measured_here(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    here = [*(each for each in VAE if not each.startswith("hardware")), "hardware=cpu", "hardware.threads=1"]
    asked = [*here, *LIKE, "--axis", "time", "--measured", "--updates", "10"]
    assert main([*asked, "--out", str(tmp_path), "--json", str(out)]) in (0, 1)
    found = json.loads(out.read_text())
    last = found["measured"][-1]["timing"]
    assert last["updates"] == 10
    assert found["difference"] == pytest.approx(last["ratio"] - 1)


def test_shortcuts_of_stages_stay() -> None:
    values = resolve(compose_config(["model=compact", "stage=vae"]))
    space = model_of(values, ["compressor", "expander"]).space()
    assert space.start == (64, 128, 192, 256)  # once: the expander's are the compressor's
    assert shortcuts([64, 128, 192, 256]) == (False, True, False, True)
    assert space.allowed((68, 136, 216, 288))
    assert not space.allowed((72, 144, 216, 288))  # 12 channels of an image's quarters divide 72
    assert not space.allowed((64, 136, 192, 256))


def test_depth_is_changed_in_all_parts_and_never_to_none() -> None:
    model = model_of(resolve(compose_config(["model=tiny", "stage=vae"])), ["compressor", "expander"])
    assert model.deeper(1) == {"model.compressor.blocks": 2, "model.expander.blocks": 2}
    assert model.deeper(-1) == {}
    values = resolve(compose_config(["model=tiny", "+model.flow_processor.long_skips=true"]))
    flow = model_of(values, ["flow_processor"])
    assert flow.deeper(-1) == {"model.flow_processor.depth": 3}
    assert flow.deeper(-2) == {}  # no two blocks to be joined


def test_added_keys_of_the_model_are_in_its_file_and_in_its_overrides_alone(tmp_path: Path) -> None:
    words = ["model=tiny", "+model.flow_processor.long_skips=true", "seed=1"]
    asked = Asked(words, [], "params", "flow", None, measured=False, updates=0)
    found = {"difference": 0.0, "tolerance": 0.01, "axis": "params", "changes": {"model.flow_processor.width": 64}}
    _, by_file, _, alone = commands(tmp_path / "model" / "mine.yaml", "mine", asked, found).splitlines()
    assert by_file.endswith(" model=mine seed=1")
    assert alone == "  model=tiny +model.flow_processor.long_skips=true model.flow_processor.width=64"


def test_widths_that_are_near_and_cannot_be_taken_are_said_to_be_so(capsys: pytest.CaptureFixture[str]) -> None:
    model = Model({"compressor": {"widths": [16, 32, 64]}}, ["compressor"])  # each stage doubles: a shortcut each

    def cost(tried: Model) -> float:
        return float(sum(tried.nodes["compressor"]["widths"]))

    found = _widths(model, {}, cost, "params", 114.0, 0.01, {})
    lines = capsys.readouterr().out.splitlines()
    assert found.cost == 112.0  # 16 32 66 would be the target itself
    near = [line for line in lines if "(+0.00%" in line]
    assert near
    assert all(line.endswith("; only to learn the slope: its shortcuts would differ)") for line in near)
    assert [line for line in lines if line.endswith("%)")]  # and of what could be taken nothing is said


def test_the_nearest_that_is_not_near_enough_is_not_called_matched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fluxflow_exp.match.fit.TOLERANCES", {"params": 1e-9})
    assert main([*VAE, *LIKE, *WIDER, "--axis", "params", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert re.search(r"^  allowed widths reach [+-]\d+\.\d\d% and no nearer$", said, re.MULTILINE)
    assert "another depth: compressor.blocks=2, expander.blocks=2" in said
    off = re.search(r"^NOT MATCHED: .*; the nearest is ([+-]\S+%) off", said, re.MULTILINE)
    assert off
    assert "Train it with" not in said
    head = (tmp_path / "model" / "tiny_silu_params.yaml").read_text().splitlines()[0]
    assert head == f"# As tiny with bezier, by params: {off[1]}, not matched: the tolerance is 0%."


def test_mistakes_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for words, answer in [
        (["stage=vae", "--axis", "params", "--name", "../silu"], "--name '../silu': choose a word"),
        (["stage=vae", "--axis", "params", "--out", str(tmp_path / "file")], "this is a file, and a folder is wanted"),
        (["stage=vae", "--axis", "params", "--config-dir", str(tmp_path / "no")], "there is no such folder"),
        (["stage=vae", "model=fluxflow", "--axis", "params"], "model=fluxflow: compressor, expander have no width"),
        (["stage=full", "--axis", "params"], "stage=full has several steps: name one with --step vae|vae_gan|flow"),
        (["stage=full", "--step", "vea", "--axis", "params"], "--step vea: there is no such step; did you mean 'vae'?"),
        (["stage=vae", "--axis", "params", "--measured"], "--measured is for --axis time, not params"),
        (["stage=vae", "modle.x=1", "--axis", "params"], "there is no key 'modle.x'"),
    ]:
        assert main([*words, *LIKE]) == 2, words
        assert answer in capsys.readouterr().err
