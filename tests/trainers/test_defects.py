"""Defects of FluxFlow Training that no module's own test guards against; see docs/reference/fluxflow-parity.md."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from fluxflow_exp import pipeline
from fluxflow_exp.losses.adversarial import Adversarial
from fluxflow_exp.losses.flow_matching import RectifiedFlow
from fluxflow_exp.models import weights
from fluxflow_exp.models.text_to_image import TextToImage
from tests.conftest import toy
from tests.helpers.trainers import build


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy run of three steps; the first leaves the compressor alone."""
    output = tmp_path_factory.mktemp("defects")
    pipeline.run(toy(output, "stage.steps.vae.freeze=[compressor]", "scheduler=linear", "scheduler.floor=0.5"))
    return output / "quickstart"


def test_b2_the_flow_is_trained_and_sampled_at_many_times(tmp_path: Path) -> None:
    trainer, batch = build(tmp_path, "flow")
    seen: list[float] = []
    forward = trainer.flow.forward

    def record(latents: Any, time: torch.Tensor, text: Any) -> Any:
        seen.extend(time.tolist())
        return forward(latents, time, text)

    trainer.flow.forward = record
    trainer.update(batch)
    assert len(set(seen)) == 8
    assert all(0 < time < 1 for time in seen)
    seen.clear()
    trainer._generate(["a"], trainer.setup.samples)
    assert sorted(set(seen), reverse=True) == pytest.approx([1.0, 0.5])
    first, last = (forward(torch.ones(1, 4, 4, 4), torch.tensor([t]), trainer.text_encoder(["a"])) for t in (0.2, 0.21))
    assert not torch.equal(first, last)


def test_b7_a_picture_has_the_size_that_is_asked_for(trained: Path) -> None:
    model = TextToImage.load(trained / "weights" / "final.safetensors")
    (picture,) = model(["a red circle on a blue ground"], steps=3, guidance_scale=2.0, size=(32, 16))
    assert picture.size == (32, 16)


def test_b12_the_weight_of_the_gan_changes_its_balance() -> None:
    norms = torch.tensor(2.0), torch.tensor(0.5)
    single, double = (Adversarial(weight=w).adaptive_weight(*norms).item() for w in (0.1, 0.2))
    assert double == pytest.approx(2 * single)


def test_b15_the_flow_sees_latents_of_unit_scale(tmp_path: Path) -> None:
    trainer, batch = build(tmp_path, "flow")
    trainer.prepare()
    trainer.begin_update(batch)
    latents = trainer._latents(trainer.latents.posterior(trainer.inputs(batch)), trainer.posterior_noise)
    assert latents.std().item() == pytest.approx(1.0, abs=0.15)
    assert latents.mean().item() == pytest.approx(0.0, abs=0.15)


def test_b16_the_noise_end_is_trained() -> None:
    normal = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    times = RectifiedFlow().times(normal)
    assert (times > 0.9).double().mean().item() > 0.01
    assert (times < 0.1).double().mean().item() > 0.01


def test_b18_one_file_is_enough_to_draw_with_the_trained_text_encoder(trained: Path, tmp_path: Path) -> None:
    moved = shutil.copy(trained / "weights" / "final.safetensors", tmp_path / "moved.safetensors")
    options: dict[str, Any] = {"steps": 3, "guidance_scale": 2.0}
    here = TextToImage.load(trained / "weights" / "final.safetensors")
    there = TextToImage.load(moved)
    prompt = ["a red circle on a blue ground"]
    assert here(prompt, **options)[0].tobytes() == there(prompt, **options)[0].tobytes()
    published = weights.read_part(moved, "text_encoder")
    loaded = there.text_encoder.state_dict()
    assert all(torch.equal(loaded[name], published[name]) for name in published)
    assert set(loaded) == set(published)


def test_b20_a_file_says_what_it_holds(trained: Path) -> None:
    facts = weights.read_facts(trained / "weights" / "final.safetensors")
    assert facts["model"]["activation"] == "bezier"
    assert set(facts["trained"]) == {"compressor", "expander", "flow_processor", "text_encoder"}
    assert facts["trained"]["flow_processor"] == "flow"


def test_b24_the_rate_ends_at_the_floor_with_the_step_whatever_the_micro_batch(tmp_path: Path) -> None:
    for micro in (8, 2):
        chosen = [f"hardware.micro_batch.autoencoder={micro}", "~stage.steps.vae_gan", "~stage.steps.flow"]
        values = toy(tmp_path, *chosen, f"name=m{micro}", "scheduler=linear", "scheduler.floor=0.5", "log_every=1")
        pipeline.run(values)
        lines = (tmp_path / f"m{micro}" / "graph" / "training_metrics_vae.jsonl").read_text().splitlines()
        rates = [row["learning_rates"]["vae"] for row in map(json.loads, lines) if row["kind"] == "train"]
        assert len(rates) == 8
        assert rates == sorted(rates, reverse=True)
        assert rates[-1] == pytest.approx(0.5 * 2e-3)


def test_b28_a_part_is_frozen_in_its_step_and_trained_in_the_next(trained: Path) -> None:
    first = weights.find_parts(trained, steps=["vae"])
    assert set(first) == {"expander"}
    assert "compressor" in weights.find_parts(trained, steps=["vae_gan"])


def test_b32_averaged_weights_are_published_and_differ_from_the_raw(trained: Path) -> None:
    averaged = weights.read_part(trained / "weights" / "flow.safetensors", "flow_processor")
    raw = weights.read_part(trained / "weights" / "flow.raw.safetensors", "flow_processor")
    final = weights.read_part(trained / "weights" / "final.safetensors", "flow_processor")
    assert any(not torch.equal(averaged[name], raw[name]) for name in raw)
    assert all(torch.equal(averaged[name], final[name]) for name in final)


def test_b36_generation_starts_from_unit_gaussian_noise(trained: Path) -> None:
    model = TextToImage.load(trained / "weights" / "final.safetensors")
    noise = model._noise([f"prompt {i}" for i in range(200)], 0, 8, 8)
    assert noise.mean().item() == pytest.approx(0.0, abs=0.02)
    assert noise.std().item() == pytest.approx(1.0, abs=0.02)


def test_b40_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        only = ["~stage.steps.vae_gan", "~stage.steps.flow", "stage.steps.vae.max_updates=2"]
        pipeline.run(toy(tmp_path, *only, f"name={name}", f"seed={seed}"))
        found.append(weights.read_part(tmp_path / name / "weights" / "final.safetensors", "expander"))
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
    assert any(not torch.equal(found[0][key], found[2][key]) for key in found[0])
