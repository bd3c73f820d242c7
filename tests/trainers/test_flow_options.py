"""Whole runs whose flow transformer and flow step have every option: resumed, sharded, published."""

from pathlib import Path

import pytest

from fluxflow_exp.models import weights
from fluxflow_exp.models.text_to_image import TextToImage
from tests.conftest import toy
from tests.helpers.children import StopAfter, finish, finish_ranks
from tests.helpers.outcomes import assert_same, losses
from tests.helpers.trainers import EVERY

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an undisturbed toy pipeline of one rank."""
    root = tmp_path_factory.mktemp("alone")
    assert finish(toy(root, *EVERY), root / "log") == 0, (root / "log").read_text()
    return root / "quickstart"


def test_a_stopped_run_ends_with_the_same_bytes(tmp_path: Path, alone: Path) -> None:
    values, log = toy(tmp_path, *EVERY), tmp_path / "log"
    assert finish(values, log, StopAfter(19)) == 143, log.read_text()
    assert finish(values, log) == 0, log.read_text()
    assert "continuing after update 3 of 8" in log.read_text()
    assert_same(tmp_path / "quickstart", alone)


def test_published_weights_are_built_with_the_options(alone: Path) -> None:
    path = alone / "weights" / "final.safetensors"
    names = weights.shapes(path, "flow_processor")
    wanted = {"shared_modulation.weight", "blocks.3.skip.weight", "blocks.1.attention.mix", "blocks.0.modulation.bias"}
    assert wanted <= names.keys()
    images = list(TextToImage.load(path).generate(["red circle"], steps=2))
    assert images[0].shape == (1, 3, 16, 16)


@pytest.mark.parametrize("count", [2, 4])
def test_sharded_it_trains_alike_and_loads_on_one_rank(tmp_path: Path, alone: Path, count: int) -> None:
    """Of four ranks two hold nothing of the two weights that mix values."""
    log = tmp_path / "log"
    values = toy(tmp_path, *EVERY, "hardware.parallel=fsdp", f"hardware.devices={count}", "checkpoint.every_updates=1")
    assert finish_ranks(values, log, count, StopAfter(19)) == [143] * count, (tmp_path / "log.0").read_text()
    assert finish(toy(tmp_path, *EVERY), log) == 0, log.read_text()
    assert losses(tmp_path / "quickstart") == pytest.approx(losses(alone), rel=2e-3, abs=2e-3)
