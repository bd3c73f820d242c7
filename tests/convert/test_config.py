"""YAML of FluxFlow Training: every key translated, ignored with a reason, or refused; and the result trains.

Covers convert/data, keys and steps as well.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from fluxflow_exp import pipeline
from fluxflow_exp.config.compose import instantiate
from fluxflow_exp.config.overrides import values_of
from fluxflow_exp.convert.config import convert
from fluxflow_exp.errors import UserError
from fluxflow_exp.models import weights
from fluxflow_exp.models.text_to_image import TextToImage
from fluxflow_exp.preflight.check import problems
from tests.helpers import seed_yaml

SMALL = [
    "hardware=cpu", "hardware.threads=1", "data.img_size=32", "evaluation.images=4", "evaluation.prompts=0",
    "samples.count=2", "samples.sample_sizes=[32,[64,32]]", "samples.steps=2", "samples.sample_captions=[a,b]",
    "model.vae_dim=8", "model.text_dim=16", "model.flow_processor.width=16", "model.flow_processor.heads=1",
    "model.flow_processor.depth=1", "model.discriminator.base_channels=8",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for i in range(24):
        Image.effect_noise((36, 32), 60).convert("RGB").save(tmp_path / "images" / f"{i}.png")
    (tmp_path / "captions.txt").write_text("".join(f"{i}.png\tpicture {i}\n" for i in range(24)))
    return tmp_path


def converted(folder: Path, text: str, **options: Any) -> tuple[dict[str, Any], list[str]]:
    old = folder / "old.yaml"
    old.write_text(text.replace("{images}", str(folder / "images")).replace("{captions}", str(folder / "captions.txt")))
    new = folder / "new" / "stage" / "old.yaml"
    new.unlink(missing_ok=True)
    lines = convert(old, new, **options)
    return yaml.safe_load(new.read_text()), lines


def composed(folder: Path, *overrides: str) -> dict[str, Any]:
    data = [f"data.data_path={folder / 'images'}", f"data.captions_file={folder / 'captions.txt'}"]
    given = ["stage=old", *data, *SMALL, f"output_root={folder / 'out'}", *overrides]
    values = values_of(given, config_dir=str(folder / "new"))
    for step in values["stage"]["steps"].values():
        step["n_epochs"], step["max_updates"], step["batch_size"] = 1, 2, 4
        if step["trainer"].get("perceptual"):
            step["trainer"]["perceptual"] |= {"pretrained": False, "net": "squeeze"}
    return values


@pytest.mark.parametrize("name", ["basic", "pipeline", "gan_only", "global_keys"])
def test_every_configuration_of_the_readme_trains_to_its_end(folder: Path, name: str) -> None:
    converted(folder, seed_yaml.ALL[name])
    values = composed(folder)
    assert problems(values) == []
    pipeline.run(values)
    (run,) = (each for each in (folder / "out").iterdir() if each.is_dir())  # a lock stands beside it
    steps = json.loads((run / "summary.json").read_text())["steps"]
    assert {n: s["updates"] for n, s in steps.items()} == dict.fromkeys(values["stage"]["steps"], 2)
    trained = set(weights.find_parts(run))
    assert {"compressor", "expander"} <= trained
    assert ("flow_processor" in trained) == ("flow" in steps)
    assert (run / "weights" / "final.safetensors").is_file()


def test_the_guidance_configuration_trains_on_the_autoencoder_of_another_run(folder: Path) -> None:
    converted(folder, seed_yaml.GLOBAL_KEYS)
    pipeline.run(composed(folder, "name=vae"))
    _, lines = converted(folder, seed_yaml.CFG)
    assert any("flow_cfg needs a trained autoencoder" in line for line in lines)
    (missing,) = problems(composed(folder))
    assert "init_from" in missing
    values = composed(folder, f"+stage.steps.flow_cfg.init_from={folder / 'out' / 'vae'}", "name=flow")
    assert values["stage"]["steps"]["flow_cfg"]["cfg_dropout_prob"] == 0.1
    pipeline.run(values)
    steps = json.loads((folder / "out" / "flow" / "summary.json").read_text())["steps"]
    assert steps["flow_cfg"]["updates"] == 2
    for kind in ("ema", "raw"):  # one file is enough to generate, wherever the autoencoder came from
        model = TextToImage.load(folder / "out" / "flow" / "weights" / "final.safetensors", kind=kind)
        assert model(["a"], steps=2)[0].size == (32, 32)


def test_the_values_of_the_basic_configuration_arrive(folder: Path) -> None:
    new, lines = converted(folder, seed_yaml.BASIC)
    (step,) = new["stage"]["steps"].values()
    assert step["n_epochs"] == 100
    assert step["batch_size"] == 1
    assert step["optimizers"] == {"vae": {"lr": 1e-5}, "discriminator": {"lr": 1e-5}}
    trainer = step["trainer"]
    assert trainer["perceptual"]["weight"] == 0.1
    assert trainer["adversarial"]["weight"] == 0.5
    assert trainer["adversarial"]["r1_gamma"] == pytest.approx(5.0 / 16)
    assert trainer["kl"] == {
        "_target_": "fluxflow_exp.losses.kl.KL", "weight": 1e-4, "warmup": 5000, "free_bits": 0.0,
    }  # fmt: skip
    assert new["model"]["vae_dim"] == 128
    assert new["model"]["text_dim"] == 1024
    assert new["data"]["img_size"] == 1024
    values = composed(folder)
    assert (values["name"], values["log_every"], values["checkpoint"]["every_updates"]) == ("flux", 10, 50)
    assert new["output_root"] == "outputs"
    assert new["checkpoint"] == {"every_updates": 50}
    assert new["samples"] == {"samples_per_checkpoint": 1, "sample_sizes": [512, [768, 512], 1024]}
    assert any("stage=old" in line and "--config-dir" in line for line in lines)


def test_freezing_holds_for_its_step_so_that_the_readmes_flow_is_trained(folder: Path) -> None:
    new, _ = converted(folder, seed_yaml.PIPELINE)
    assert "freeze" not in new["stage"]["steps"]["vae_warmup"]
    assert "freeze" not in new["stage"]["steps"]["flow"]
    steps = """
training:
  pipeline:
    steps:
      - {name: a, n_epochs: 1, train_vae: true, freeze: [compressor, flow]}
      - {name: b, n_epochs: 1, train_vae: true, freeze: [D_img], gan_training: true}
      - {name: c, n_epochs: 1, train_vae: true}
"""
    made = converted(folder, steps)[0]["stage"]["steps"]
    assert [step.get("freeze", []) for step in made.values()] == [["compressor"], ["discriminator"], []]


def test_optimizers_schedulers_and_transitions_arrive(folder: Path) -> None:
    text = """
training:
  pipeline:
    defaults: {batch_size: 8}
    steps:
      - name: vae
        n_epochs: 4
        max_steps: 100
        train_vae: true
        optimization:
          optimizers: {vae: {type: RMSprop, lr: 1e-5, momentum: 0.9}}
          schedulers: {vae: {type: CosineAnnealingLR, eta_min_factor: 0.2}}
        transition_on: {mode: loss_threshold, metric: vae_loss, threshold: 0.05, max_epochs: 3}
"""
    new, lines = converted(folder, text)
    (step,) = new["stage"]["steps"].values()
    assert step["max_updates"] == 400
    assert step["batch_size"] == 8
    assert step["transition_on"] == {"metric": "vae", "below": 0.05, "max_epochs": 3}
    assert any("max_steps counts batches an epoch" in line for line in lines)
    values = composed(folder)
    (player,) = values["stage"]["steps"]["vae"]["optimizers"].values()
    assert player["_target_"] == "torch.optim.RMSprop"
    assert (player["lr"], player["momentum"]) == (1e-5, 0.9)
    assert values["stage"]["steps"]["vae"]["schedulers"]["vae"]["floor"] == 0.2
    assert problems(values) == []


def test_named_data_sets_arrive(folder: Path) -> None:
    text = f"""
training:
  pipeline:
    default_dataset: one
    datasets:
      one: {{type: local, image_folder: "{folder}/images", captions_file: "{folder}/captions.txt", batch_size: 3}}
      two: {{type: local, image_folder: "{folder}/images", captions_file: "{folder}/captions.txt"}}
    steps:
      - {{name: a, n_epochs: 1, train_vae: true}}
      - {{name: b, n_epochs: 1, train_vae: true, dataset: two}}
"""
    new, _ = converted(folder, text)
    assert [step["batch_size"] for step in new["stage"]["steps"].values()] == [3, 2]
    small = [o for o in SMALL if not o.startswith("data.")]
    values = values_of(["stage=old", "hardware=cpu", *small], config_dir=str(folder / "new"))
    assert problems(values) == []
    assert values["stage"]["steps"]["b"]["data"] == "two"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (seed_yaml.OLD_LIST, r"(?s)is a list.*steps:"),
        ("training: {train_vea: true}", "training.train_vea: there is no such key; did you mean 'train_vae'"),
        ("training: {n_epochs: 1}", "nothing is trained"),
        ("trainng: {}", "did you mean 'training'"),
        ("training: {pipeline: {steps: [{name: a, n_epochs: 1, train_vae: true, lrr: 1}]}}", r"steps\[0\].lrr"),
        ("- a", "no mapping of sections"),
        ("a: [", "is not YAML"),
        (
            "training: {pipeline: {steps: [{name: a, n_epochs: 1, train_vae: true, "
            "optimization: {optimizers: {vae: {type: Lion}}}}]}}",
            "Lion is not offered",
        ),
        (
            "training: {pipeline: {steps: [{name: a, n_epochs: 1, train_vae: true, "
            "optimization: {optimizers: {flow_processor: {}}}}]}}",
            "the names are vae, discriminator, flow, text_encoder",
        ),
        ("training: {train_vae: true}\nmodel: {feature_maps_dim: 100}", "multiple of 16"),
        (
            "training: {train_vae: true}\ndata: {use_webdataset: true, webdataset_url: 'hf://datasets/a/b/*.tar'}",
            "brace range",
        ),
        (
            "training: {train_vae: true, use_fp16: true, pipeline: {steps: [{name: a, train_vae: true}, "
            "{name: b, train_vae: true, use_fp16: false}]}}",
            "use_fp16 differs between steps",
        ),
        (
            "training: {pipeline: {steps: [{name: a, train_vae: true, dataset: nowhere}]}}",
            "a: its dataset is 'nowhere'; training.pipeline.datasets names none",
        ),
        (
            "training: {pipeline: {steps: [{name: a, train_diff: true, unfreeze: [compressor]}]}}",
            "a: unfreeze: compressor is not trained in this step, only flow_processor, text_encoder",
        ),
        *(
            (
                "training: {pipeline: {steps: [{name: a, train_vae: true, "
                f"optimization: {{schedulers: {{vae: {{type: {kind}}}}}}}}}]}}}}",
                f"a: scheduler vae: {expected}",
            )
            for kind, expected in (
                ("ExponentialLR", "ExponentialLR needs its gamma"),
                ("LinearLR, start_factor: 0.5", "start_factor=0.5 has no counterpart here"),
                ("ConstantLR, factor: 0.5", "factor=0.5 has no counterpart here"),
                ("CosineAnnealingLR, T_max: 9", "T_max=9 has no counterpart here"),
                ("ReduceLROnPlateau, mode: max", "mode=max has no counterpart here"),
            )
        ),
        (
            "training: {pipeline: {steps: [{name: a, train_vae: true, transition_on: {mode: plateau}}]}}",
            "a: transition_on.mode='plateau'; there are epoch and loss_threshold",
        ),
        (
            "training: {pipeline: {datasets: {x: {type: local, image_folder: i, captions_file: c, webdataset_url: u}}, "
            "default_dataset: x, steps: [{name: a, train_vae: true}]}}",
            "datasets.x.webdataset_url is of type: webdataset",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(folder: Path, text: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        converted(folder, text)
    assert not (folder / "new").exists()


def test_keys_without_a_counterpart_are_listed_with_the_reason(folder: Path) -> None:
    text = "training: {train_vae: true, training_steps: 3}\noutput: {log_level: INFO}\ndata: {tokenizer_name: x}"
    _, lines = converted(folder, text)
    ignored = [line for line in lines if line.startswith("ignored: ")]
    assert [line.split(":")[1].strip() for line in ignored] == [
        "data.tokenizer_name", "training.training_steps", "output.log_level",
    ]  # fmt: skip


def test_a_token_is_written_to_no_file(folder: Path) -> None:
    text = """
data: {use_webdataset: true, webdataset_url: "https://host/x-{0..3}.tar", webdataset_token: hf_secret,
  webdataset_size: 100}
training: {train_vae: true}
"""
    new, lines = converted(folder, text)
    assert "hf_secret" not in (folder / "new" / "stage" / "old.yaml").read_text() + "\n".join(lines)
    assert new["data"]["token_env"] == "WEBDATASET_TOKEN"
    assert new["data"]["epoch_size"] == 100


def test_a_pretrained_encoder_comes_from_its_folder(folder: Path) -> None:
    (folder / "bert").mkdir()
    (folder / "bert" / "config.json").write_text(json.dumps({"hidden_size": 48}))
    new, _ = converted(folder, seed_yaml.CFG, text_encoder=str(folder / "bert"))
    assert new["model"]["text_dim"] == 48
    assert new["model"]["text_encoder"] == {"name": str(folder / "bert")}
    assert list(new["stage"]["steps"]["flow_cfg"]["optimizers"]) == ["flow"]
    with pytest.raises(UserError, match="--text-encoder FOLDER"):
        converted(folder, seed_yaml.CFG, text_encoder="absent")


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("StepLR, step_size: 7, gamma: 0.5", [1.0] * 7 + [0.5] * 7 + [0.25] * 6),
        ("ExponentialLR, gamma: 0.9", [0.9**i for i in range(20)]),
        ("LinearLR, end_factor: 0.5, start_factor: 1.0", [1 - 0.5 * i / 20 for i in range(20)]),
        ("ConstantLR, factor: 1.0", [1.0] * 20),
    ],
)
def test_a_schedule_has_the_rates_of_the_original(folder: Path, given: str, taken: list[float]) -> None:
    schedulers = f"optimization: {{schedulers: {{vae: {{type: {given}}}}}}}"
    converted(folder, f"training: {{pipeline: {{steps: [{{name: a, train_vae: true, lr: 1, {schedulers}}}]}}}}")
    values = composed(folder)
    assert problems(values) == []
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = instantiate(values["stage"]["steps"]["a"]["schedulers"]["vae"])(optimizer, updates=20)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx(taken)


def test_workers_and_a_prefix_of_a_data_set_arrive(folder: Path) -> None:
    local = f"type: local, image_folder: {folder}/images, captions_file: {folder}/captions.txt"
    text = f"""
training:
  pipeline:
    default_dataset: one
    datasets: {{one: {{{local}, workers: 3, fixed_prompt_prefix: drawing}}, two: {{{local}}}}}
    steps: [{{name: a, train_vae: true, workers: 2}}]
"""
    new, lines = converted(folder, text)
    assert new["data"]["datasets"]["one"]["fixed_prompt_prefix"] == "drawing"
    assert "fixed_prompt_prefix" not in new["data"]["datasets"]["two"]
    assert any("hardware.num_workers=3" in line for line in lines)
    assert any(line.startswith("workers: 2, 3;") for line in lines)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (["--config", "a/old.yaml"], "convert config a/old.yaml converted/stage/old.yaml"),
        (["--config=old.yaml", "--validate-pipeline"], "validate=true"),
        (["--generate_diagrams"], "python -m fluxflow_exp.plot"),
    ],
)
def test_options_of_the_old_command_name_the_new_one(option: list[str], expected: str) -> None:
    asked = subprocess.run([sys.executable, "-m", "fluxflow_exp", *option], capture_output=True, text=True, check=False)
    assert asked.returncode == 2
    assert expected in asked.stderr
    assert "Traceback" not in asked.stderr
