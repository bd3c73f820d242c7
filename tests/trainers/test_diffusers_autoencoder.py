"""Autoencoders of diffusers in the steps of a run: frozen, as players, killed and resumed, and back to the library."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fluxflow_exp import pipeline
from fluxflow_exp.config import autoencoder
from fluxflow_exp.convert.autoencoder import convert
from fluxflow_exp.errors import UserError
from fluxflow_exp.models.text_to_image import TextToImage
from fluxflow_exp.preflight.check import problems
from tests.helpers.autoencoders import save, toy
from tests.helpers.children import KillDuring, finish
from tests.helpers.outcomes import losses, published

SIGKILL = -9
KINDS = ["AutoencoderKL", "AutoencoderDC"]


def step(name: str, *, epochs: int = 1) -> list[str]:
    return [f"stage.steps.{name}.n_epochs={epochs}", f"stage.steps.{name}.batch_size=8"]


def begun(folder: Path) -> str:
    return f"model.autoencoder.path={folder}"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.slow
def test_a_flow_step_that_is_killed_goes_on_bit_for_bit(tmp_path: Path, kind: str) -> None:
    save(tmp_path / "vae", kind)
    words = [begun(tmp_path / "vae"), *step("flow", epochs=2), "name=run"]
    pipeline.run(toy(tmp_path / "whole", "flow", *words))
    values, log = toy(tmp_path / "killed", "flow", *words), tmp_path / "log"
    assert finish(values, log, KillDuring("fluxflow_exp.trainers.base:Trainer", "update", 5)) == SIGKILL, (
        log.read_text()
    )
    (tmp_path / "vae").rename(tmp_path / "moved")  # weights may lie elsewhere, as data may
    values = toy(tmp_path / "killed", "flow", begun(tmp_path / "moved"), *words[1:])
    assert finish(values, log) == 0, log.read_text()
    assert "continuing after update" in log.read_text()
    whole, killed = (tmp_path / name / "run" for name in ("whole", "killed"))
    assert len(published(whole)) == 3
    assert published(whole) == published(killed)
    assert losses(whole) == losses(killed)


def test_what_a_flow_step_publishes_generates_without_the_folder(tmp_path: Path, kind: str) -> None:
    theirs = save(tmp_path / "vae", kind)
    pipeline.run(toy(tmp_path, "flow", begun(tmp_path / "vae"), *step("flow"), "name=run"))
    (tmp_path / "vae").rename(tmp_path / "away")
    final = tmp_path / "run" / "weights" / "final.safetensors"
    held = load_file(final)
    for name, tensor in theirs.state_dict().items():
        part = "compressor" if name.startswith(("encoder.", "quant_conv.")) else "expander"
        assert torch.equal(held[f"{part}.{name}"], tensor)
    (image,) = TextToImage.load(final)(["a red circle"], steps=2)
    assert image.size == (16, 16)
    convert(tmp_path / "run", tmp_path / "back")
    again = type(theirs).from_pretrained(tmp_path / "back")
    assert all(torch.equal(t, theirs.state_dict()[name]) for name, t in again.state_dict().items())


def test_trained_from_a_configuration_alone_it_loads_there(tmp_path: Path, kind: str) -> None:
    save(tmp_path / "vae", kind)
    alone = tmp_path / "config.json"
    alone.write_bytes((tmp_path / "vae" / "config.json").read_bytes())
    loss = ["stage.steps.vae.trainer.kl=null"] if kind == "AutoencoderDC" else []
    pipeline.run(toy(tmp_path, "vae", f"model.autoencoder.config={alone}", *step("vae"), *loss, "name=run"))
    loads_there(tmp_path / "run", tmp_path / "back", kind)


@pytest.mark.parametrize("stage", ["vae_gan", "decoder_gan"])
def test_fine_tuned_with_a_discriminator_it_loads_there(tmp_path: Path, kind: str, stage: str) -> None:
    theirs = save(tmp_path / "vae", kind).state_dict()
    lossless = kind == "AutoencoderDC" and stage == "vae_gan"
    loss = ["stage.steps.vae_gan.trainer.kl=null"] if lossless else []
    pipeline.run(toy(tmp_path, stage, begun(tmp_path / "vae"), *step(stage), *loss, "name=run"))
    back = loads_there(tmp_path / "run", tmp_path / "back", kind)
    moved = {name.split(".")[0] for name, tensor in back.items() if not torch.equal(tensor, theirs[name])}
    encoder = {"encoder", "quant_conv"} & {name.split(".")[0] for name in theirs}
    decoder = {"decoder", "post_quant_conv"} & {name.split(".")[0] for name in theirs}
    assert moved == (encoder | decoder if stage == "vae_gan" else decoder)


def loads_there(run: Path, folder: Path, kind: str) -> dict[str, Any]:
    """The library's state of a converted run, whose bits are those of the published file."""
    import diffusers

    convert(run, folder)
    model = getattr(diffusers, kind).from_pretrained(folder)
    final = load_file(run / "weights" / "final.safetensors")
    halves = {name.partition(".")[2]: t for name, t in final.items() if name.startswith(("compr", "expan"))}
    state: dict[str, Any] = model.state_dict()
    assert sorted(state) == sorted(halves)
    assert all(torch.equal(tensor, halves[name]) for name, tensor in state.items())
    with pytest.raises(UserError, match="exists"):
        convert(run, folder)
    convert(run, folder.with_name("scaled"), scaling_factor=0.5)
    scaled = getattr(diffusers, kind).from_pretrained(folder.with_name("scaled"))
    assert (scaled.config.scaling_factor, model.config.scaling_factor != 0.5) == (0.5, True)
    with pytest.raises(UserError, match="must be a positive number, not 0"):
        convert(run, folder, scaling_factor=0)
    return state


def test_a_run_whose_folder_has_other_weights_is_not_gone_on_with(tmp_path: Path) -> None:
    model = save(tmp_path / "vae")
    words = [begun(tmp_path / "vae"), *step("flow"), "name=run"]
    values, log = toy(tmp_path, "flow", *words), tmp_path / "log"
    assert finish(values, log, KillDuring("fluxflow_exp.trainers.base:Trainer", "update", 2)) == SIGKILL
    with torch.no_grad():
        model.decoder.conv_in.bias.add_(1)
    model.save_pretrained(tmp_path / "vae")
    with pytest.raises(UserError, match=r"diffusion_pytorch_model.safetensors has changed"):
        pipeline.run(values)


def test_what_does_not_go_together_is_said_before_anything_is_read(tmp_path: Path) -> None:
    save(tmp_path / "kl")
    save(tmp_path / "dc", "AutoencoderDC")
    for stage, folder, words, said in (
        ("vae", "dc", [], "trainer.kl acts on a distribution, and AutoencoderDC gives none: set it to null"),
        ("vae_gan_spade", "kl", [], "this expander has no SPADE layers"),
        ("flow", "kl", ["model.vae_dim=8"], "the autoencoder has 4 latent channels"),
        ("flow", "kl", ["data.img_size=17"], "no multiple of 2"),
    ):
        (line, *_) = problems(toy(tmp_path, stage, begun(tmp_path / folder), *words))
        assert said in line
    fresh = toy(tmp_path, "flow", f"model.autoencoder.config={tmp_path}/kl/config.json")
    assert "needs a trained compressor and expander" in problems(fresh)[0]


def test_another_autoencoder_is_no_business_of_the_librarys(tmp_path: Path) -> None:
    from tests.conftest import TOY_STEPS
    from tests.conftest import toy as own

    words = [word for word in TOY_STEPS if ".vae." in word]
    pipeline.run(own(tmp_path, *words, stage="vae"))
    with pytest.raises(UserError, match=r"compact_vae\.Compressor, and diffusers knows those of model/autoencoder"):
        convert(tmp_path / "vae", tmp_path / "out")
    assert autoencoder.STAGES.keys() == set(KINDS)
