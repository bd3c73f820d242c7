"""docs/benchmarks/sampling.py: what is tried, what it costs, and what is said of it."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from fluxflow_exp.losses.flow_matching import RectifiedFlow
from fluxflow_exp.models.text_to_image import TextToImage
from tests.helpers.trainers import build

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
    """Distances are means over seeds: 20 evaluations are good with one seed alone."""
    rows = [
        row("euler", 50, 100, 60.0), row("euler", 50, 100, 62.0, seed=1),
        row("ab2", 10, 20, 60.0), row("ab2", 10, 20, 66.0, seed=1),
        row("ab2", 12, 22, 60.0, guidance_interval=[0, 0.8]), row("ab2", 20, 40, 59.0),
    ]  # fmt: skip
    first, second = script.verdicts(rows)
    assert "Fréchet 61.00" in first
    assert "12 steps, guidance 3 in 0 to 0.8:  22 evaluations" in second
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
        images, found = script.draw_pictures(model, ("a", "b", "c"), settings, options)
        assert images.shape == (3, 3, 16, 16)
        assert images.dtype == torch.uint8
        costs[found["sampler"], found["guidance_scale"], found["guidance_interval"] is None] = found["evaluations"]
    assert costs == {
        ("euler", 1, True): 10, ("heun", 1, True): 10, ("ab2", 1, True): 10,
        ("euler", 3, True): 20, ("heun", 3, True): 20, ("ab2", 3, True): 20,
        ("euler", 3, False): 16, ("heun", 3, False): 16, ("ab2", 3, False): 16,
    }  # fmt: skip
