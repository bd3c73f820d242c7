"""Parts that cannot be built or do not fit, and image sizes that they cannot take: said before data is read."""

import pytest

from fluxflow_exp import main
from fluxflow_exp.config.compose import resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.errors import UserError
from fluxflow_exp.preflight import parts
from tests.preflight.conftest import check


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["model=compact", "data.img_size=250"], "no multiple of 16, the grid of model=compact: 240 or 256"),
        (["data.img_size=33"], "no multiple of 8, the grid of model=tiny: 32 or 40"),
        (["model=fluxflow", "data.img_size=40"], "no multiple of 16, the grid of model=fluxflow: 32 or 48"),
        (["model.flow_processor.patch_size=3"], "no multiple of 24, the grid of model=tiny: 24 or 48"),
        (["samples.sample_sizes=[64,[64,36]]"], "samples.sample_sizes=[64, 36] gives 36 pixels"),
        (["+loss@stage.steps.vae.trainer.perceptual=lpips", "data.img_size=16"],
         "data.img_size=16 gives images of 16 pixels a side, and trainer.perceptual needs 32"),
        (["model.discriminator.depth=9"], "and model.discriminator needs 512"),
        (["evaluation.metrics=[ms_ssim]"], "and ms_ssim in evaluation.metrics needs 176"),
        (["model.expander.vae_dim=3"], "model.expander.vae_dim=3, model.flow_processor.vae_dim=16 must be the same: "
         "model.vae_dim sets all of them"),
        (["model.expander.widths=[8,8]"], "model.expander enlarges 4 times what model.compressor reduces 8 times"),
        (["model.text_encoder.heads=3"], "model.text_encoder: width=128 must be a multiple of heads=3"),
        (["model.flow_processor.heads=3"], "model.flow_processor: width / heads must be a multiple of 4"),
        (["model=fluxflow", "model.compressor.attn_heads=7"], "vae_dim=128 must be a multiple of attn_heads=7"),
    ],
)  # fmt: skip
def test_parts_and_image_sizes_that_do_not_fit_are_one_line(overrides, expected):
    (found,) = check(*overrides)
    assert expected in found


def test_sizes_of_buckets_and_scales_are_looked_at():
    words = ["hardware=cpu", "model=compact", "model.flow_processor.patch_size=2"]
    values = resolve(compose_config(words))
    node = {"_target_": "fluxflow_exp.data.image_folder.ImageFolder", "img_size": 256, "buckets": 1.5}
    found = parts.problems({**values, "data": {**node, "reduced_min_sizes": [112, 128]}})
    assert {line.partition(" gives")[0] for line in found} == {"data.reduced_min_sizes", "data.buckets=1.5"}
    assert all("no multiple of 32" in line for line in found)
    assert parts.problems({**values, "data": {**node, "buckets": None, "reduced_min_sizes": [128]}}) == []


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("stage.steps.vae.optimizers.vae=sgd", "choose one: optimizer@stage.steps.vae.optimizers.vae=…"),
        ("stage.steps.vae.schedulers.vae=null", "choose one: scheduler@stage.steps.vae.schedulers.vae=…"),
        ("stage.steps.vae.trainer=x", "with a _target_ and its arguments, not 'x'"),
        ("stage.steps.vae.trainer.kl=null", "stage.steps.vae.trainer.kl is missing"),
        ("model.text_encoder=null", "model.text_encoder is what is built"),
        ("stage.steps.vae.trainer._target_=3", "stage.steps.vae.trainer names nothing to build (no _target_)"),
    ],
)
def test_a_word_where_something_is_built_is_one_line(override, expected):
    (found,) = check(override)
    assert expected in found


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["model.text_encoder.width=64"], "set model.text_dim=64"),
        (["model/text_encoder=huggingface", "model.text_encoder.name=no/such"], "encoder 'no/such' is neither"),
    ],
)
def test_a_text_encoder_that_is_not_there_or_does_not_fit_is_one_line_of_the_plan(overrides, expected, monkeypatch):
    monkeypatch.setattr("fluxflow_exp.models.huggingface_files.fetch", _nothing)
    with pytest.raises(UserError, match=r"^model\.text_encoder") as caught:
        main.train(resolve(compose_config(["hardware=cpu", "validate=true", *overrides])))
    assert expected in str(caught.value)


def _nothing(name, *, local, dtype):
    raise ValueError(f"the text encoder {name!r} is neither on this machine nor to be fetched")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optimizer._target_=fluxflow_exp.losses.kl.KL", "optimizer: fluxflow_exp.losses.kl.KL is no optimizer"),
        ("stage.steps.vae.trainer.kl._target_=fluxflow_exp.losses.lecam.LeCam", "takes a KL, not fluxflow_exp.losses"),
    ],
)
def test_what_is_built_for_another_place_is_refused(override, expected):
    assert any(expected in line for line in check(override))
