"""A step's trainer begins with the weights that it should: fresh, of an earlier step, or of another run."""

from pathlib import Path

import pytest
import torch

from fluxflow_exp.models import weights
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.trainers.base import Trainer
from tests.conftest import toy
from tests.helpers.trainers import trainer_of


def trainer(tmp_path: Path, step: str, *earlier: str, override: str = "seed=0") -> Trainer:
    made: Trainer = trainer_of(toy(tmp_path, override), step, tmp_path / "run", *earlier)
    return made


def level(trainer: Trainer, part: str) -> float:
    """The value that all weights of a part have."""
    values = torch.cat([each.flatten() for each in trainer.setup.parts[part].state_dict().values()]).unique()
    assert len(values) == 1
    return values.item()


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    """Weights of a step `vae`: the raw ones are 1, the averaged ones 2."""
    parts = trainer(tmp_path, "vae").setup.parts
    facts = {"index": 1, "model": {}, "trained": dict.fromkeys(parts, "vae"), "text_encoder": "reference"}
    facts |= {"img_size": 16, "downscale": 4, "flow": None}
    for kind, name, value in (("raw", "vae.raw", 1.0), ("ema", "vae", 2.0)):
        states = {part: {k: torch.full_like(v, value) for k, v in m.state_dict().items()} for part, m in parts.items()}
        path = tmp_path / "run" / "weights" / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        weights.publish(path, states, {**facts, "kind": kind})
    return path


def test_raw_weights_are_trained_on_and_averaged_ones_used(
    tmp_path: Path, vae: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert level(trainer(tmp_path, "vae_gan", "vae"), "compressor") == 1.0
    assert level(trainer(tmp_path, "flow", "vae", "vae_gan"), "compressor") == 2.0
    said = capsys.readouterr().out
    assert "Step vae_gan: discriminator starts from fresh weights (no earlier step made it)" in said
    assert f"Step flow: compressor from {vae}" in said


def test_init_from_goes_before_an_earlier_step_and_is_noted(tmp_path: Path, vae: Path) -> None:
    given = vae.rename(tmp_path / "given.safetensors")
    built = trainer(tmp_path, "vae_gan", override=f"stage.steps.vae_gan.init_from={given}")
    assert level(built, "expander") == 2.0
    assert built.setup.given == ["compressor", "expander"]


def test_what_is_built_twice_begins_alike_and_saves_nothing_of_a_run(tmp_path: Path) -> None:
    first, second = trainer(tmp_path, "vae"), trainer(tmp_path, "vae")
    for part, module in first.setup.parts.items():
        other = second.setup.parts[part].state_dict()
        assert all(torch.equal(value, other[name]) for name, value in module.state_dict().items())
    assert first.setup.checkpoints.run is None
    assert (first.setup.index, first.setup.steps, first.setup.ranks.count) == (1, 3, 1)
    assert not (tmp_path / "run").exists()


def test_rows_are_as_far_apart_as_was_asked_or_as_the_run_began_with(tmp_path: Path) -> None:
    step = ["stage.steps.vae.n_epochs=10", "stage.steps.vae.batch_size=8"]  # 40 updates

    def every(asked: str) -> int:
        found: int = trainer_of(
            toy(tmp_path, *step, f"log_every={asked}", stage="vae"), "vae", tmp_path / "run"
        ).setup.log_every
        return found

    assert (every("auto"), every("7")) == (4, 7)
    RunFolder(tmp_path / "run").freeze({**toy(tmp_path, *step, "log_every=20", stage="vae")})
    assert (every("auto"), every("7")) == (20, 7)
