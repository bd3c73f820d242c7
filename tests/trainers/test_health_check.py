"""Health numbers of constructed tensors and models, and the rows and lines of a run."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fluxflow_exp import pipeline
from fluxflow_exp.models.bezier import BezierActivation
from fluxflow_exp.models.layers import AlignedConv2d
from fluxflow_exp.run.metric_log import read_rows
from fluxflow_exp.trainers.health_check import Activity, active_units, latent_numbers, logit_numbers
from tests.conftest import toy
from tests.helpers.children import KillDuring, finish
from tests.helpers.trainers import START, build


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_latents_and_logits_by_their_definitions() -> None:
    latents = torch.tensor([1.0, -3.0]).view(2, 1, 1, 1).expand(2, 4, 2, 2)
    assert latent_numbers(latents) == {"latent_std": 2.0, "latent_max": 3.0}
    real, fake = torch.full((3, 1, 2, 2), 0.5), torch.full((3, 1, 2, 2), -0.25)
    assert logit_numbers(real, fake) == {"logit_gap": 0.75, "hinge_loss": 1.25}
    assert logit_numbers(real * 4, fake * 8)["hinge_loss"] == 0.0
    assert logit_numbers(0 * real, 0 * fake)["hinge_loss"] == 2.0


def test_a_unit_is_active_if_it_differs_from_image_to_image() -> None:
    means = normal(64, 4, 3, 3)
    means[:, 1] *= 0.05  # variance 0.0025
    means[:, 2] = means[:1, 2]  # a pattern, the same for all
    assert active_units(means) == {"active_units": 2.0}
    assert active_units(0.01 * means) == {"active_units": 0.0}


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.GELU(), nn.SiLU()])
def test_channels_that_a_bias_has_killed_are_counted(activation: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), activation, nn.Conv2d(8, 4, 1), nn.SiLU())
    with Activity([model]) as sound:
        model(normal(16, 3, 8, 8))
    assert sound.numbers() == {"dead_activations": 0.0, "dead_in_one": 0.0}
    with torch.no_grad():
        model[0].bias[:6] = -100.0  # type: ignore[index]
    with Activity([model]) as activity:
        model(normal(16, 3, 8, 8))
        model(normal(16, 3, 8, 8))
    assert activity.numbers() == {"dead_activations": pytest.approx(6 / 12), "dead_in_one": pytest.approx(6 / 8)}
    model(normal(1, 3, 8, 8))
    assert len(activity.seen) == 2  # nothing is hooked any more


def test_a_bezier_curve_of_constant_inputs_is_dead_and_tokens_have_channels_last() -> None:
    model = nn.Sequential(nn.Linear(4, 10), BezierActivation(dim=-1))
    with torch.no_grad():
        model[0].weight[:5] = 0.0  # type: ignore[index]
    with Activity([model]) as activity:
        model(normal(8, 6, 4))
    assert activity.numbers() == {"dead_activations": 0.5, "dead_in_one": 0.5}


def test_padding_of_gpus_and_what_is_never_called_are_not_counted() -> None:
    model = nn.Sequential(AlignedConv2d(3, 10, 3, padding=1), nn.ReLU())
    unused = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    with Activity([model, unused]) as activity:
        model[1](model[0].aligned(normal(4, 3, 8, 8)))  # type: ignore[operator]
    assert activity.numbers() == {"dead_activations": 0.0, "dead_in_one": 0.0}
    with Activity([unused]) as none:
        pass
    assert none.numbers() == {}


def health_rows(run: Path, step: str) -> list[dict[str, Any]]:
    return [row for row in read_rows(run / "graph" / f"training_metrics_{step}.jsonl") if row["kind"] == "health"]


VAE = ["~stage.steps.vae_gan", "~stage.steps.flow"]
COLLAPSE = [*VAE, "stage.steps.vae.trainer.kl.weight=1000", "stage.steps.vae.trainer.kl.warmup=0"]
COLLAPSE += ["stage.steps.vae.n_epochs=8", "optimizer.lr=0.01", "samples.every_epochs=null", "log_every=1"]


@pytest.fixture(scope="module")
def collapsed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run whose posterior a huge weight of the divergence collapses; its log is beside it."""
    root = tmp_path_factory.mktemp("collapsed")
    assert finish(toy(root, *COLLAPSE), root / "log") == 0, (root / "log").read_text()
    return root / "quickstart"


def test_a_collapsed_posterior_is_said_once(collapsed: Path) -> None:
    rows = health_rows(collapsed, "vae")
    assert len(rows) == 8
    assert rows[-1]["metrics"]["active_units"] == 0
    warned = ["posterior_collapse" in row.get("warnings", {}) for row in rows]
    assert warned[-2:] == [True, True]
    said = (collapsed.parent / "log").read_text().count("Health: posterior_collapse: 0 of 4 latent channels")
    assert said == 1 + sum(before and not after for before, after in pairwise(warned))


def test_a_sound_run_has_rows_in_every_step_and_no_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline.run(toy(tmp_path, "tracking=off"))
    names = {
        step: set(health_rows(tmp_path / "quickstart", step)[-1]["metrics"]) for step in ("vae", "vae_gan", "flow")
    }
    everywhere = {"latent_std", "latent_max", "dead_activations", "dead_in_one"}
    assert names["flow"] == everywhere
    assert names["vae"] == everywhere | {"active_units"}
    assert names["vae_gan"] == names["vae"] | {"logit_gap", "hinge_loss", "gradient_ratio", "adaptive_weight"}
    assert "Health:" not in capsys.readouterr().out
    assert (tmp_path / "quickstart" / "graph" / "health.png").exists()


def test_nothing_is_looked_for_where_it_is_off(tmp_path: Path) -> None:
    pipeline.run(toy(tmp_path, *VAE, "health.images=null"))
    assert health_rows(tmp_path / "quickstart", "vae") == []
    assert not (tmp_path / "quickstart" / "graph" / "health.png").exists()


def test_after_a_kill_rows_and_warnings_are_those_of_an_undisturbed_run(tmp_path: Path, collapsed: Path) -> None:
    last = next(row["global_step"] for row in health_rows(collapsed, "vae") if "warnings" in row)
    moment = KillDuring("fluxflow_exp.trainers.base:Trainer", "update", last + 6)  # checkpoints are 3 updates apart
    values, log = toy(tmp_path, *COLLAPSE), tmp_path / "log"
    assert finish(values, log, moment) == -9
    assert "Health: posterior_collapse" in log.read_text()
    assert finish(values, log) == 0, log.read_text()
    said = [path.read_text().count("Health: ") for path in (log, collapsed.parent / "log")]
    assert said[0] == said[1]  # what was said before the kill is not said again
    found = [health_rows(run, "vae") for run in (tmp_path / "quickstart", collapsed)]
    timeless = [[{k: v for k, v in row.items() if k != "timestamp"} for row in rows] for rows in found]
    assert timeless[0] == timeless[1]


class Opponent(nn.Module):
    """A discriminator that takes what is bright somewhere for an image."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(strength))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.strength * (images.abs().amax((1, 2, 3), keepdim=True) - 0.1)


def test_a_discriminator_that_always_wins_and_one_that_sees_nothing(tmp_path: Path) -> None:
    trainer, batch = build(tmp_path, "vae_gan", *START)
    numbers = {}
    for name, strength in (("wins", 1000.0), ("blind", 0.0)):
        trainer.adversarial.opponent = Opponent(strength)
        trainer.expander.head[-1].weight.data.zero_()  # reconstructions are grey
        trainer.expander.head[-1].bias.data.zero_()
        trainer.update_index = 600
        with torch.no_grad():
            numbers[name], context = trainer.health(batch)
        assert context.discriminator_updates == 600
        assert context.adaptive == (0.1, 100.0)
    assert numbers["wins"]["hinge_loss"] == 0.0
    assert numbers["wins"]["logit_gap"] > 50
    assert numbers["blind"]["logit_gap"] == 0.0
    assert numbers["blind"]["hinge_loss"] == 2.0


def test_weights_and_modes_are_left_as_they_were(tmp_path: Path) -> None:
    trainer, batch = build(tmp_path, "flow")
    before = {k: v.clone() for k, v in trainer.flow.state_dict().items()}
    modes = {part: module.training for part, module in trainer.setup.parts.items()}
    numbers, _ = trainer.health(batch)
    assert math.isfinite(numbers["latent_std"])
    assert all(torch.equal(v, before[k]) for k, v in trainer.flow.state_dict().items())
    assert {part: module.training for part, module in trainer.setup.parts.items()} == modes


@pytest.mark.parametrize("step", ["vae_gan", "flow"])
def test_the_size_of_a_pass_changes_nothing_but_rounding(tmp_path: Path, step: str) -> None:
    trainer, batch = build(tmp_path, step, *START)
    found = []
    for size in (8, 2):
        trainer.accumulation.micro_batch = size
        with torch.no_grad():
            found.append(trainer.health(batch)[0])
    assert found[0] == pytest.approx(found[1], rel=1e-4, abs=1e-5)
