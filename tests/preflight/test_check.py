"""Everything wrong with a configuration, found before data is read.

Covers preflight/frame, steps, data, idle and targets as well.
"""

import json
from itertools import product
from pathlib import Path

import pytest
import torch

from fluxflow_exp.config.compose import conf_dir, instantiate, resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.evaluation import measures
from fluxflow_exp.models import weights
from fluxflow_exp.preflight.check import problems
from tests.conftest import toy
from tests.helpers.networks import small_timm
from tests.helpers.text_encoders import save
from tests.preflight.conftest import check


def group(name):
    return sorted(p.stem for p in (Path(conf_dir()) / name).glob("*.yaml") if p.stem != "as_run")


# The others need a trained autoencoder, or a whole model.
STAGES = [s for s in group("stage") if not s.startswith(("flow", "decoder", "finetune"))]
MODELS = [m for m in group("model") if m != "published"]


@pytest.mark.parametrize(("stage", "model"), list(product(STAGES, MODELS)))
def test_every_shipped_stage_and_model_passes(stage, model):
    assert check(f"model={model}", stage=stage) == []


PLACES = {"lpips": "perceptual", "v_prediction": "objective"}


@pytest.mark.parametrize("loss", group("loss"))
def test_every_shipped_loss_can_be_put_into_a_step(loss, tmp_path):
    step = "flow" if loss in ("augmentation", "self_alignment", "repa", "v_prediction") else "vae_gan"
    place = f"stage.steps.{step}.trainer.{PLACES.get(loss, loss)}"
    more = [f"{place}.teacher_path={small_timm(tmp_path)}"] if loss == "repa" else []
    values = resolve(compose_config(["stage=quickstart", "hardware=cpu", f"+loss@{place}={loss}", *more]))
    assert problems(values) == []
    node = values["stage"]["steps"][step]["trainer"][PLACES.get(loss, loss)]
    head = (Path(conf_dir()) / "loss" / f"{loss}.yaml").read_text().splitlines()[1]
    assert head == f"# +loss@stage.steps.STEP.trainer.{PLACES.get(loss, loss)}={loss}"
    assert instantiate({**node, "pretrained": False} if loss == "lpips" else node) is not None


def steps_of(stage):
    return resolve(compose_config([f"stage={stage}", "model=tiny"]))["stage"]["steps"]


@pytest.mark.parametrize("stage", group("stage"))
def test_a_step_of_a_shipped_pipeline_can_be_shortened_or_taken_out(stage):
    steps = steps_of(stage)
    for name in steps:
        values = resolve(compose_config([f"stage={stage}", "model=tiny", f"stage.steps.{name}.n_epochs=7"]))
        assert values["stage"]["steps"][name]["n_epochs"] == 7
    if len(steps) > 1 and "vae_gan" in steps:
        assert check("~stage.steps.vae_gan", stage=stage) == []


@pytest.mark.parametrize(
    ("optimizer", "scheduler"), [*product(group("optimizer"), ["cosine"]), *product(["adamw"], group("scheduler"))]
)
def test_every_optimizer_and_scheduler_passes(optimizer, scheduler):
    assert check(f"optimizer={optimizer}", f"scheduler={scheduler}") == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("card", [c for c in group("hardware") if c not in ("auto", "cpu")])
def test_a_card_that_is_not_there_is_said_and_nothing_else(card):
    found = problems(resolve(compose_config([f"hardware={card}"])))
    assert len(found) == 1
    assert f"hardware={card} needs a CUDA GPU" in found[0]
    assert "hardware=cpu" in found[0]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("+foo=1", "foo: there is no such key"),
        ("+model.fo=1", "model.fo: there is no such key"),
        ("+stage.steps.vae.n_epoch=1", "did you mean 'n_epochs'"),
        ("+stage.steps.vae.trainer.kl.wait=1", "KL takes no 'wait'"),
        ("+optimizer.lrr=1", "takes no 'lrr'; did you mean 'lr'?"),
        ("stage.steps.vae.trainer.kl.weight=much", "stage.steps.vae.trainer.kl.weight='much'"),
        ("model.activation=swish", "model.compressor.activation='swish'"),
        ("model.compressor.widths=8", "model.compressor.widths=8"),
        ("stage.steps.vae.trainer._target_=nowhere.Trainer", "cannot find 'nowhere.Trainer'"),
        ("stage.steps.vae.batch_size=0", "batch_size must be at least 1"),
        ("hardware.micro_batch.flow=5", "batch_size=32 is not a multiple of hardware.micro_batch.flow=5"),
        ("hardware.micro_batch.flow=0", "hardware.micro_batch.flow must be at least 1, not 0"),
        ("hardware.micro_batch.flow=all", "hardware.micro_batch.flow is a number of images or auto, not 'all'"),
        ("log_every=0", "log_every must be at least 1, not 0"),
        ("log_every=often", "log_every is a number of updates or auto, not 'often'"),
        ("samples.every_epochs=0", "samples.every_epochs must be at least 1, not 0"),
        ("samples.every_epochs=1.5", "samples.every_epochs is a number of epochs, auto or null, not 1.5"),
        ("evaluation.every_epochs=often", "evaluation.every_epochs is a number of epochs, auto or null, not 'often'"),
        ("stage.steps.vae.freeze=[compresor]", "did you mean 'compressor'?"),
        ("stage.steps.vae.freeze=[compressor,expander]", "trains nothing of compressor and expander"),
        ("~stage.steps.vae_gan.optimizers.discriminator", "the adversarial loss needs it"),
        ("stage.steps.flow.cfg_dropout_prob=1.5", "must be in [0, 1]"),
        ("stage.steps.flow.unfreeze=[compressor]", "this step trains no compressor, only flow_processor, text_encoder"),
        ("stage.steps.vae.unfreeze=[text_encoder]", "this step trains no text_encoder, only compressor, expander"),
        ("stage.steps.vae.cfg_dropout_prob=0.1", "stage.steps.vae.cfg_dropout_prob acts in flow steps alone"),
        (
            "+loss@stage.steps.vea.trainer.perceptual=lpips",
            "stage.steps: there is no step 'vea'; did you mean 'vae'? The steps: vae, ",
        ),
        ("resume=maybe", "resume is one of auto, fresh, extend"),
        ("stage.steps.flow.init_from=nowhere/at/all", "init_from: there is no file or folder nowhere: name a run"),
    ],
)
def test_each_mistake_is_one_clear_line(override, expected):
    found = check(override)
    assert any(expected in line for line in found), found


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["+loss@stage.steps.vae.trainer.lecam=lecam"], "lecam acts on a discriminator"),
        (["stage.spade=true"], "stage.spade builds SPADE layers that no step trains"),
        (["+stage.steps.vae.trainer.spade=always"], "needs SPADE layers: set stage.spade=true"),
        (["~stage.steps.vae_gan.trainer.reconstruction"], "adaptive compares with a reconstruction loss"),
        (
            ["stage.steps.flow.freeze=[text_encoder]", "stage.steps.flow.unfreeze=[text_encoder]"],
            "in freeze and in unfreeze",
        ),
        (
            [
                "model/text_encoder=language_model",
                "model.text_encoder.name=x",
                "stage.steps.flow.unfreeze=[text_encoder]",
            ],
            "whose weights are bfloat16: set model.text_encoder.dtype=float32",
        ),
    ],
)
def test_losses_that_could_not_act_are_refused(overrides, expected):
    (found,) = check(*overrides)
    assert expected in found


def test_what_acts_on_nothing_is_no_problem_of_a_run_that_was_begun_with_it():
    idle = (
        "+loss@stage.steps.vae.trainer.lecam=lecam",
        "stage.steps.vae.cfg_dropout_prob=0.1",
        "stage.steps.vae.unfreeze=[text_encoder]",
    )
    assert len(check(*idle)) == 3
    assert check(*idle, begun=True) == []
    (line,) = check(*idle, "stage.steps.vae.freeze=[compresor]", begun=True)
    assert "did you mean 'compressor'?" in line


def test_a_misspelt_step_is_one_problem():
    assert len(check("+loss@stage.steps.vea.trainer.perceptual=lpips")) == 1


def test_half_a_character_and_paths_that_cannot_be_are_problems_like_others(tmp_path):
    values = resolve(compose_config(["stage=quickstart", "hardware=cpu", "samples.sample_captions=[a kite]"]))
    values["samples"]["sample_captions"] = ["a kite", "half \ud800"]
    values["data"] |= {"data_path": "x" * 300, "captions_file": "a\0b"}
    found = problems(values)
    assert any(line.startswith("samples.sample_captions.1=") and "lone surrogate U+D800" in line for line in found)
    assert any(line.startswith("data.data_path: there is no folder xxx") for line in found)
    assert any(line.startswith("data.captions_file: there is no file") for line in found)


def test_all_problems_are_listed_together():
    found = check(
        "+foo=1", "stage.steps.vae.trainer.kl.weight=much", "resume=maybe", "data=image_folder", "data.data_path=/none"
    )
    assert len(found) >= 5
    assert any("data.captions_file is not set" in line and "or sidecar: a text beside" in line for line in found)
    assert any("data.data_path: there is no folder /none" in line for line in found)


def test_a_flow_step_needs_an_autoencoder():
    (line,) = check(stage="flow_cfg")
    assert "needs a trained compressor and expander" in line
    assert "init_from" in line


def test_a_decoder_alone_needs_a_trained_and_frozen_compressor():
    (line,) = check(stage="decoder_gan")
    assert "stage.steps.decoder_gan needs a trained compressor" in line
    (line,) = check("~stage.steps.vae.trainer.kl", stage="vae")
    assert "stage.steps.vae.trainer.kl is missing: without it stage.steps.vae.freeze must have the compressor" in line


def test_an_output_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (line,) = check(f"output_root={tmp_path}/file/outputs")
    assert "is a file, so nothing can be written below it" in line


def test_init_from_with_another_text_encoder_says_how_to_do_without(tmp_path):
    facts = {
        "index": 1, "kind": "ema", "model": {}, "trained": {"text_encoder": "flow"}, "text_encoder": "embed",
        "img_size": 32, "downscale": 8, "flow": None,
    }  # fmt: skip
    state = {name: torch.zeros(3, dtype=torch.uint8) for name in weights.ASSETS}
    weights.publish(tmp_path / "final.safetensors", {"text_encoder": state}, facts)
    chosen = ["model/text_encoder=language_model", f"model.text_encoder.name={save(tmp_path / 'qwen', 'qwen2')}"]
    found = check(*chosen, "stage=full", f"stage.steps.flow.init_from={tmp_path / 'final.safetensors'}")
    assert any("holds another text encoder" in line and "weights/STEP.safetensors" in line for line in found), found


def test_init_from_of_another_shape_is_refused(tmp_path):
    from fluxflow_exp import pipeline

    pipeline.run(toy(tmp_path, "~stage.steps.vae_gan", "~stage.steps.flow", "stage.steps.vae.max_updates=1"))
    run = tmp_path / "quickstart"
    flow = ["stage.steps.flow.batch_size=8", "stage.steps.flow.n_epochs=1", f"stage.steps.flow.init_from={run}"]
    assert problems(toy(tmp_path, *flow, stage="flow")) == []
    (first, *_) = problems(toy(tmp_path, *flow, "model.vae_dim=8", stage="flow"))
    assert "compressor does not fit model=tiny" in first
    assert json.loads((run / "run.json").read_text())["steps"]["vae"]["updates"] == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluation.metrics=[psnr,sim]", "evaluation.metrics: there is no metric 'sim'; did you mean 'ssim'?"),
        ("evaluation.metrics=[flow]", "evaluation.metrics: there is no metric 'flow'"),
        ("evaluation.lpips_net=vgg19", "evaluation.lpips_net is one of alex, vgg, squeeze, not 'vgg19'"),
        ("evaluation.lpips_weights_file=nowhere.pth", "evaluation.lpips_weights_file: there is no file nowhere.pth"),
        ("evaluation.sampler=rk4", "evaluation.sampler is one of euler, heun, ab2, not 'rk4'"),
        ("samples.guidance_interval=[0.8,0.2]", "samples.guidance_interval is two times from 0 (the picture) to 1"),
        ("evaluation.guidance_interval=[0,2]", "evaluation.guidance_interval must be in [0, 1] or null, not 2"),
        ("samples.shift=0", "samples.shift must be positive or null, not 0"),
        (
            "stage.steps.vae.transition_on={metric: val_ssim, patience: 2}",
            "stage.steps.vae.transition_on.metric=val_ssim is measured with ssim in evaluation.metrics",
        ),
    ],
)
def test_a_measure_that_cannot_be_taken_is_one_line(override, message):
    (line,) = check(override)
    assert line.startswith(message)


def test_measures_need_their_packages_and_two_images(monkeypatch):
    assert check("evaluation.metrics=[psnr,ssim,rfd,kid]") == []
    assert check("evaluation.metrics=[kid]", "evaluation.prompts=0") == [
        "evaluation.prompts must be at least 2 for kid, not 0"
    ]
    assert check("evaluation.metrics=[ssim]", "stage.steps.vae.transition_on={metric: val_ssim, patience: 2}") == []
    monkeypatch.setattr(measures, "find_spec", lambda name: None)
    assert check() == []
    (line,) = check("evaluation.metrics=[psnr,ssim,rfd]")
    assert line.startswith("evaluation.metrics: ssim, rfd: not installed here: torchmetrics, torch_fidelity, timm")
    assert 'pip install "fluxflow-exp[eval]"' in line


def test_copies_are_not_looked_for_in_a_stream():
    words = ["data=webdataset", "data.urls=https://example.org/a.tar", "data.epoch_size=9"]
    assert check(*words) == []
    (line,) = check(*words, "evaluation.metrics=[copies]")
    assert line.startswith("evaluation.metrics: copies looks through training images, and https://example.org/a.tar is")


def test_a_cache_that_no_step_reads_is_refused():
    assert check("cache.mode=on") == []
    (line,) = check("cache.mode=on", stage="vae")
    assert line.startswith("cache.mode=on: no step here trains on latents of frozen parts")
