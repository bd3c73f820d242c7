"""Toy runs: the real configuration composed with small numbers."""

import gc
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fluxflow_exp import plot
from fluxflow_exp.config.compose import resolve
from fluxflow_exp.config.overrides import compose_config
from tests.helpers import blank_graphs
from tests.helpers.children import warm_up
from tests.helpers.interpreted import INTERPRETED
from tests.helpers.studies import Make, make_run

# The suite talks to no dashboard; tests of W&B itself take this away.
os.environ["WANDB_MODE"] = "disabled"
gc.disable()  # until all is imported

TOY = [
    "tracking=off",
    "hardware=cpu",
    "hardware.threads=1",
    "model.vae_dim=4",
    "model.text_dim=32",
    "model.compressor.widths=[8,16]",
    "model.flow_processor.width=32",
    "model.flow_processor.depth=1",
    "model.flow_processor.heads=2",
    "model.discriminator.base_channels=8",
    "data.img_size=16",
    "data.n_images=32",
    "+data.n_validation=8",
    "evaluation.images=8",
    "evaluation.prompts=4",
    "evaluation.steps=2",
    "samples.count=2",
    "samples.steps=2",
    "log_every=3",
    "checkpoint.every_updates=3",
]
TOY_WITHOUT_DATA = [word for word in TOY if not word.lstrip("+").startswith("data.")]
TOY_STEPS = [
    f"stage.steps.{name}.{key}" for name in ("vae", "vae_gan", "flow") for key in ("n_epochs=2", "batch_size=8")
]


def toy(output: Path, *overrides: str, stage: str = "quickstart") -> dict[str, Any]:
    """The resolved configuration of a toy run below `output`."""
    steps = TOY_STEPS if stage == "quickstart" else []
    return resolve(compose_config([f"stage={stage}", *TOY, *steps, f"output_root={output}", *overrides]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Workers get neighbouring tests, so that what a file trains for all of its tests is trained by few of them."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getoption("dist") == "load" else None


def pytest_collection_finish() -> None:
    """What all test modules import is looked through by no collection of garbage: it would be a third of their time."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _forkserver() -> None:
    if not INTERPRETED:  # there, nothing trains
        warm_up()
        blank_graphs.leave_blank()


@pytest.fixture
def garbage_apart() -> None:
    """What is there before the test is looked through by none of the collections that the package asks for in it."""
    gc.freeze()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs of this process are rendered."""
    monkeypatch.setattr(plot, "_rendered", blank_graphs.RENDERED)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes a run of a study below a temporary folder."""
    return partial(make_run, tmp_path / "study")
