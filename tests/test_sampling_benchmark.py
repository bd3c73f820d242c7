"""docs/benchmarks/sampling.py: what is tried, what it costs, and what is said of it."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from fluxflow_exp import evaluate, files, pipeline
from fluxflow_exp.errors import UserError
from fluxflow_exp.evaluation import distances
from fluxflow_exp.evaluation.features import load
from fluxflow_exp.losses.flow_matching import RectifiedFlow
from fluxflow_exp.models.text_to_image import TextToImage
from tests.conftest import toy
from tests.helpers.networks import small_timm
from tests.helpers.packages import skip_without
from tests.helpers.trainers import build

skip_without("torchmetrics")
skip_without("timm")

SCRIPT = Path(__file__).parents[1] / "docs" / "benchmarks" / "sampling.py"


@pytest.fixture(name="script")
def _script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return importlib.import_module(SCRIPT.stem)


def row(sampler: str, steps: int, evaluations: int, fd: float, *, seed: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "sampler": sampler, "steps": steps, "evaluations": evaluations, "fd": fd, "seed": seed, "seconds": 1.0,
        "guidance_scale": 3.0, "guidance_interval": None, "shift": None, "retrieval_1": 0.5, "retrieval_5": 0.8, **more,
    }  # fmt: skip


def test_the_fewest_evaluations_that_reach_many_steps_of_euler_are_named(script: ModuleType, tmp_path: Path) -> None:
    """Differences are means over the seeds of both: 20 evaluations are good with one seed alone."""
    rows = [
        row("euler", 50, 100, 60.0), row("euler", 50, 100, 62.0, seed=1),
        row("ab2", 10, 20, 60.0), row("ab2", 10, 20, 66.0, seed=1),
        row("ab2", 11, 21, 61.5, seed=1), row("heun", 5, 20, 60.5), row("ab2", 20, 40, 59.0),
        row("ab2", 12, 22, 60.0, guidance_interval=[0, 0.8]), row("ab2", 5, 10, 50.0, seed=2),  # no such reference
    ]  # fmt: skip
    first, second, third = script.verdicts(rows)
    assert "Fréchet 61.00" in first
    assert "11 steps, guidance 3:  21 evaluations" in second  # 61.5 is more than 61, and less than its own seed's 62
    assert second.endswith("Fréchet -0.50")  # one seed: no interval
    assert "best of at most 20: heun    5 steps" in third  # 60.5 is more than its own seed's 60, and less than 61
    assert third.endswith("Fréchet +0.50")
    # Differences 0 and 4: mean 2, standard error 2, t of one degree of freedom 12.706.
    (*_, fourth) = script.verdicts(rows[:4])
    assert fourth.endswith("Fréchet +2.00 ± 25.41 (95 %, 2 seeds)")
    script.draw(rows, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 10_000


def test_evaluations_are_those_of_one_picture(script: ModuleType, tmp_path: Path) -> None:
    trainer, _ = build(tmp_path, "flow")
    parts = {"expander": trainer.setup.parts["expander"], "flow_processor": trainer.flow}
    model = TextToImage(
        **parts, text_encoder=trainer.text_encoder, downscale=trainer.compressor.downscale, objective=RectifiedFlow(),
        img_size=16,
    )  # fmt: skip
    words = ["--device", "cpu", "--batch", "2", "--steps", "10", "--guidance", "1", "3", "--interval", "0.2", "0.8"]
    options = script.parser().parse_args(words)
    costs = {}
    for settings in script.configurations(options):
        images, found = script.draw_pictures(model, ["a", "b", "c"], settings, options)
        assert images.shape == (3, 3, 16, 16)
        assert images.dtype == torch.uint8
        costs[found["sampler"], found["guidance_scale"], found["guidance_interval"] is None] = found["evaluations"]
    assert costs == {
        ("euler", 1, True): 10, ("heun", 1, True): 10, ("ab2", 1, True): 10,
        ("euler", 3, True): 20, ("heun", 3, True): 20, ("ab2", 3, True): 20,
        ("euler", 3, False): 16, ("heun", 3, False): 16, ("ab2", 3, False): 16,
    }  # fmt: skip


@pytest.mark.parametrize("n", [6, 40])
def test_the_distance_is_that_of_evaluate(script: ModuleType, n: int) -> None:
    """With fewer pictures than features, and with more."""
    source = torch.Generator().manual_seed(0)
    real, fake = torch.rand(n, 12, generator=source), 2 * torch.rand(n + 3, 12, generator=source)
    assert script.frechet(real, fake) == pytest.approx(distances.frechet(real, fake), rel=1e-4)


def test_a_run_is_measured_on_its_own_held_out_pictures_and_no_row_twice(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = ["~stage.steps.vae_gan", "stage.steps.vae.max_updates=1", "stage.steps.flow.max_updates=1"]
    pipeline.run(toy(tmp_path, *short, "samples.every_epochs=null"))
    run, out, network = tmp_path / "quickstart", tmp_path / "out.json", small_timm(tmp_path / "resnet")
    monkeypatch.setattr(script, "load", lambda _: load(str(network)))

    def measure(*steps: str, pictures: int = 8) -> list[dict[str, Any]]:
        words = [str(run), "--data", f"data.n_validation={pictures}", "--samplers", "ab2", "--guidance", "1"]
        options = script.parser().parse_args([*words, "--device", "cpu", "--json", str(out), "--steps", *steps])
        rows: list[dict[str, Any]] = script.measure(options)["rows"]
        return rows

    first = measure("2")
    both = measure("2", "3")
    assert both[0] == first[0], "measured again, seconds differ"
    assert [each["evaluations"] for each in both] == [2, 3]

    wanted = ["--metrics", "fd", "prompt_accuracy", "--features", str(network), "--images", "8", "--guidance", "1"]
    drawn = ["--steps", "3", "--sampler", "ab2", "--device", "cpu", "--json", str(tmp_path / "theirs.json")]
    evaluate.main([str(run), "data.n_validation=8", *wanted, *drawn])
    theirs = {each["metric"]: each["value"] for each in files.read_json(tmp_path / "theirs.json")["results"]}
    assert both[1]["fd"] == pytest.approx(theirs["fd"], rel=1e-3)
    assert both[1]["prompt_accuracy"] == theirs["prompt_accuracy"]
    with pytest.raises(UserError, match="measured otherwise"):
        measure("2", pictures=4)
