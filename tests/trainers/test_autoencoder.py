"""Each declared loss gives gradient to the parts that it should reach, and to no other."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fluxflow_exp.trainers.cache_files import weights_digest
from fluxflow_exp.wiring.gradients import reached
from tests.helpers.trainers import ALL_ON, GAN_ONLY, PERCEPTUAL, PERCEPTUAL_ON, START, build, updated

ACTIVATIONS = ["bezier", "silu", "gelu", "relu"]
AUTOENCODER, DISCRIMINATOR = {"compressor", "expander"}, {"discriminator"}
REACHES = {
    **dict.fromkeys(("l1", "mse", "l1_low", "l1_high", "lpips", "color_stats", "histogram", "contrast"), AUTOENCODER),
    "equivariance": AUTOENCODER,
    **dict.fromkeys(("g", "feature_matching"), AUTOENCODER),
    "kl": {"compressor"},
    **dict.fromkeys(("d", "r1", "lecam"), DISCRIMINATOR),
    "flow": {"flow_processor", "text_encoder"},
}
TERMS = {"vae": ("l1", "mse", "kl"), "vae_gan": ("l1", "mse", "kl", "g", "d", "r1"), "flow": ("flow",)}  # as shipped


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("step", list(TERMS))
def test_each_loss_reaches_its_parts_and_no_other(tmp_path: Path, step: str, activation: str) -> None:
    trainer, batch = build(tmp_path, step, f"model.activation={activation}", *START)
    assert reached(trainer, batch, 0) == {term: REACHES[term] for term in TERMS[step]}


def test_a_frozen_part_gets_nothing_and_does_not_move(tmp_path: Path) -> None:
    trainer, batch = build(tmp_path, "vae", "stage.steps.vae.freeze=[compressor]")
    before = {n: p.clone() for n, p in trainer.setup.parts["compressor"].named_parameters()}
    expander = [p.clone() for p in trainer.setup.parts["expander"].parameters()]
    trainer.update(batch)
    assert all(torch.equal(p, before[n]) for n, p in trainer.setup.parts["compressor"].named_parameters())
    assert any(
        not torch.equal(a, b) for a, b in zip(expander, trainer.setup.parts["expander"].parameters(), strict=True)
    )


@pytest.mark.parametrize("step", list(TERMS))
def test_every_player_and_its_average_move(tmp_path: Path, step: str) -> None:
    trainer, batch = build(tmp_path, step, *START)
    before = {n: [p.clone() for p in player.parameters] for n, player in trainer.players.items()}
    averages = {
        n: {part: {k: v.clone() for k, v in s.items()} for part, s in player.ema.average.items()}
        for n, player in trainer.players.items()
        if player.ema
    }
    trainer.update(batch)
    for name, player in trainer.players.items():
        assert any(not torch.equal(a, b) for a, b in zip(before[name], player.parameters, strict=True)), name
        if player.ema:
            moved = [
                not torch.equal(v, averages[name][p][k]) for p, s in player.ema.average.items() for k, v in s.items()
            ]
            assert any(moved), name
    assert not any(p.requires_grad for m in trainer.setup.parts.values() for p in m.parameters())


@pytest.mark.parametrize("step", list(TERMS))
def test_the_micro_batch_does_not_change_the_update(tmp_path: Path, step: str) -> None:
    results = []
    for micro in (8, 2):
        sizes = [f"hardware.micro_batch.{kind}={micro}" for kind in ("autoencoder", "flow")]
        trainer, batch = build(tmp_path, step, *START, "optimizer=sgd", *sizes)
        for _ in range(3):
            metrics = updated(trainer, batch)
            trainer.update_index += 1
        results.append((metrics, [p.clone() for player in trainer.players.values() for p in player.parameters]))
    (first, a), (second, b) = results
    assert first == pytest.approx(second, rel=1e-3, abs=1e-5)
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-5)


def test_the_adaptive_weight_starts_at_zero_and_is_that_of_the_update_before(tmp_path: Path) -> None:
    trainer, batch = build(tmp_path, "vae_gan", *START)
    assert float(trainer.adversarial.adapted) == 0.0
    first = updated(trainer, batch)["g_weight"]
    assert first > 0
    assert float(trainer.adversarial.adapted) == pytest.approx(first)


def test_captions_are_dropped_for_the_given_share_of_samples(tmp_path: Path) -> None:
    trainer, batch = build(tmp_path, "flow", "stage.steps.flow.cfg_dropout_prob=0.25")
    shares = []
    for trainer.update_index in range(300):
        trainer.begin_update(batch)
        shares.append(sum(trainer.dropped) / 8)
    assert sum(shares) / 300 == pytest.approx(0.25, abs=0.03)
    seen: list[str] = []
    tokenise = trainer.text_encoder.tokenise
    trainer.text_encoder.tokenise = lambda captions: (seen.extend(captions), tokenise(captions))[1]
    trainer.dropped = [True, False] * 4
    (micro,) = trainer.accumulation.micros(trainer.machine.to_device(batch.images), batch.captions)
    trainer._arguments(micro)
    assert [c == "" for c in seen] == [True, False] * 4
    assert seen[1] == batch.captions[1]


def test_every_optional_loss_reaches_its_parts_and_no_other(tmp_path: Path) -> None:
    trainer, batch = build(tmp_path, "vae_gan", *ALL_ON, *PERCEPTUAL, *START)
    trainer.update(batch)  # LeCam has its anchors from the first update on
    wanted = {term: parts for term, parts in REACHES.items() if term != "flow"}
    assert reached(trainer, batch, 0) == wanted
    assert set(wanted) <= set(type(trainer).METRICS)


def test_every_optional_loss_ignores_the_micro_batch(tmp_path: Path) -> None:
    noise = ["+stage.steps.vae_gan.trainer.adversarial.instance_noise=0.1"]
    results = []
    for micro in (8, 2):
        size = f"hardware.micro_batch.autoencoder={micro}"
        trainer, batch = build(
            tmp_path,
            "vae_gan",
            *ALL_ON,
            *PERCEPTUAL,
            *START,
            *noise,
            "optimizer=sgd",
            size,
            "stage.steps.vae_gan.trainer.perceptual.crop=32",
        )
        for _ in range(3):
            metrics = updated(trainer, batch)
            trainer.update_index += 1
        results.append(metrics)
    assert results[0] == pytest.approx(results[1], rel=1e-3, abs=1e-5)


def test_with_a_frozen_compressor_the_decoder_alone_is_trained_and_no_kl_is_needed(tmp_path: Path) -> None:
    sizes = ["stage.steps.decoder_gan.batch_size=8", "stage.steps.decoder_gan.trainer.adversarial.start=0"]
    trainer, batch = build(tmp_path, "decoder_gan", *sizes, stage="decoder_gan")
    wanted = {term: {"expander"} for term in ("l1", "mse", "g")} | dict.fromkeys(("d", "r1"), DISCRIMINATOR)
    assert reached(trainer, batch, 0) == wanted
    before = weights_digest(trainer.compressor), weights_digest(trainer.expander)
    metrics = updated(trainer, batch)
    assert weights_digest(trainer.compressor) == before[0]  # latents that were cached stay valid
    assert weights_digest(trainer.expander) != before[1]
    assert not {"kl", "kl_beta"} & {*metrics, *trainer.scheduled()}


EQUIVARIANCE = "+loss@stage.steps.vae.trainer.equivariance=equivariance"
OFF_OR_ON = {
    "off": [],
    "latent noise": ["+stage.steps.vae.trainer.latent_noise=0.7"],
    "equivariance": [EQUIVARIANCE],
    "logarithm": ["+stage.steps.vae.trainer.reconstruction.log_mse=0.1"],
    "both": ["+stage.steps.vae.trainer.latent_noise=0.7", EQUIVARIANCE],
}


def test_equivariance_is_computed_in_its_updates_alone(tmp_path: Path) -> None:
    trainer, batch = build(tmp_path, "vae", EQUIVARIANCE, "stage.steps.vae.trainer.equivariance.every=3")
    found, shapes = [], []
    for trainer.update_index in range(4):
        found.append("equivariance" in updated(trainer, batch))
        (micro,) = trainer.accumulation.micros(trainer.machine.to_device(batch.images), batch.captions)
        shapes.append([each.shape for each in trainer._arguments(micro)])
    assert found == [True, False, False, True] == ["equivariance" in trainer.kind(update) for update in range(4)]
    assert shapes[1] == shapes[2] != shapes[0] == shapes[3]  # a graph each


def test_latents_are_moved_towards_noise_by_a_level_a_sample(tmp_path: Path) -> None:
    trainer, batch = build(tmp_path, "vae", *OFF_OR_ON["latent noise"])
    seen: list[torch.Tensor] = []
    trainer.expander.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    trainer.update(batch)
    posterior = trainer.compressor(trainer.machine.to_device(batch.images))
    assert trainer.noise_levels.shape == (8, 1, 1, 1)
    assert 0 <= float(trainer.noise_levels.min()) < float(trainer.noise_levels.max()) <= 0.7
    trainer, batch = build(tmp_path, "vae", *OFF_OR_ON["latent noise"])
    trainer.begin_update(batch)
    posterior = trainer.compressor(trainer.machine.to_device(batch.images))
    latents, levels = posterior.sample(trainer.posterior_noise), trainer.noise_levels
    torch.testing.assert_close(seen[0], (1 - levels) * latents + levels * trainer.latent_noises)
    assert not torch.equal(trainer.latent_noises, trainer.posterior_noise)


@pytest.mark.parametrize("chosen", list(OFF_OR_ON))
def test_what_is_drawn_is_a_function_of_the_update(tmp_path: Path, chosen: str) -> None:
    """An update done twice, or in micro-batches, gives the same numbers; another one draws others."""
    results = []
    for micro, update in ((8, 2), (2, 2), (8, 4)):
        size = f"hardware.micro_batch.autoencoder={micro}"
        trainer, batch = build(tmp_path, "vae", *OFF_OR_ON[chosen], size)
        trainer.update_index = update
        results.append(updated(trainer, batch))
    assert results[0] == pytest.approx(results[1], rel=1e-4, abs=1e-6)
    assert results[0]["l1"] != results[2]["l1"]
    assert ("log_mse" in results[0]) == (chosen == "logarithm")
    assert ("equivariance" in results[0]) == (chosen in ("equivariance", "both"))


@pytest.mark.parametrize("spade", ["never", "always"])
def test_gan_only_computes_no_reconstruction_and_trains_encoder_and_decoder(tmp_path: Path, spade: str) -> None:
    chosen = [f"stage.steps.gan_only.trainer.spade={spade}", f"stage.spade={str(spade == 'always').lower()}"]
    trainer, batch = build(tmp_path, "gan_only", *GAN_ONLY, *chosen, stage="gan_only")
    assert reached(trainer, batch, 0) == {term: REACHES[term] for term in ("kl", "g", "d", "r1")}
    metrics = updated(trainer, batch)
    assert not {"vae", "l1", "mse", "lpips"} & set(metrics)
    assert trainer.players["vae"].ema is not None


def test_spade_acts_where_it_is_asked_for(tmp_path: Path) -> None:
    step = "vae_gan_spade"
    sizes = [f"stage.steps.{step}.batch_size=8", f"stage.steps.{step}.trainer.spade=alternate"]
    trainer, batch = build(tmp_path, step, *sizes, stage=step)
    gamma = trainer.expander.modulations[0].mlp_gamma.weight
    beta = trainer.expander.modulations[0].mlp_beta.weight
    moved = []
    for trainer.update_index in range(4):
        before = gamma.clone(), beta.clone()
        trainer.update(batch)
        moved.append([not torch.equal(a, b) for a, b in zip(before, (gamma, beta), strict=True)])
    assert moved == [[True, True], [False, False], [True, True], [False, False]]
    latents = torch.randn(1, 4, 4, 4)
    with torch.no_grad():
        assert not torch.equal(trainer.expander(latents, True), trainer.expander(latents, False))


def test_spade_without_its_layers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.spade=true"):
        build(tmp_path, "vae_gan", "+stage.steps.vae_gan.trainer.spade=always")


def test_instance_noise_is_added_and_decays(tmp_path: Path) -> None:
    chosen = ["+stage.steps.vae_gan.trainer.adversarial.instance_noise=0.5"]
    chosen += ["+stage.steps.vae_gan.trainer.adversarial.instance_noise_decay=0.5"]
    trainer, batch = build(tmp_path, "vae_gan", *START, *chosen)
    seen: list[Any] = []
    trainer.adversarial.r1_gamma = 0.0
    discriminator = trainer.setup.parts["discriminator"]
    forward = discriminator.forward
    discriminator.forward = lambda images: (seen.append(images.detach()), forward(images))[1]
    images = trainer.machine.to_device(batch.images)
    deviations = []
    for trainer.update_index in range(3):
        seen.clear()
        trainer.update(batch)
        _, real, fake = seen  # the generator's look, then the discriminator's two
        deviations.append(float((real - images).std()))
        assert float((fake - trainer.adversarial.fakes).std()) == pytest.approx(deviations[-1], rel=0.1)
    assert deviations == pytest.approx([0.5, 0.25, 0.125], rel=0.05)


def test_the_perceptual_loss_is_evaluated_every_kth_update_with_its_weight_corrected(tmp_path: Path) -> None:
    trainer, batch = build(
        tmp_path, "vae_gan", PERCEPTUAL_ON, *PERCEPTUAL, "stage.steps.vae_gan.trainer.perceptual.every=3"
    )
    (micro,) = trainer.accumulation.micros(trainer.machine.to_device(batch.images), batch.captions)
    weights = []
    for trainer.update_index in range(4):
        trainer.begin_update(batch)
        _, found = trainer._generator(*trainer._arguments(micro))
        weights.append(found.get("lpips"))
    assert weights == [pytest.approx(0.3), None, None, pytest.approx(0.3)]


def test_a_saved_trainer_with_every_loss_goes_on_with_the_same_update(tmp_path: Path) -> None:
    chosen = [*ALL_ON, *PERCEPTUAL, *START, "+stage.steps.vae_gan.trainer.adversarial.instance_noise=0.1"]
    first, batch = build(tmp_path / "a", "vae_gan", *chosen)
    for _ in range(3):
        first.update(batch)
        first.update_index += 1
    saved = first.state_dict()
    torch.save(saved, tmp_path / "state.pt")
    second, _ = build(tmp_path / "b", "vae_gan", *chosen)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert updated(first, batch) == updated(second, batch)
    for a, b in zip(first.players["vae"].parameters, second.players["vae"].parameters, strict=True):
        assert torch.equal(a, b)
