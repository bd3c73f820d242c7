"""The complete stage files of docs/how-to/your-own-stage.md: composed, checked, and trained at toy size."""

import re
from pathlib import Path
from typing import Any

import pytest

from fluxflow_exp import pipeline
from fluxflow_exp.config.compose import resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.preflight import check
from tests.conftest import TOY

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "your-own-stage.md"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """The page's folder."""
    (tmp_path / "stage").mkdir()
    for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        name = re.search(r"^name: (\w+)$", block, re.MULTILINE)
        assert name
        (tmp_path / "stage" / f"{name[1]}.yaml").write_text(block, encoding="utf-8")
    return tmp_path


def composed(mine: Path, stage: str, *overrides: str) -> dict[str, Any]:
    return resolve(compose_config([f"stage={stage}", "hardware=cpu", *overrides], config_dir=str(mine)))


def test_what_the_files_say_is_what_is_trained(mine: Path) -> None:
    (sharp,) = composed(mine, "sharp", "optimizer.lr=9")["stage"]["steps"].values()
    assert sharp["optimizers"]["vae"]["_target_"] == "torch.optim.Adam"
    assert sharp["optimizers"]["vae"]["lr"] == 0.001, "not the run's"
    assert sharp["schedulers"]["vae"] == {
        "_target_": "fluxflow_exp.schedules.linear", "_partial_": True, "warmup": 100, "floor": 0.1
    }  # fmt: skip
    assert (sharp["trainer"]["frequency"]["low"], sharp["trainer"]["frequency"]["high"]) == (1.0, 1.0)
    gallery = composed(mine, "gallery", "optimizer.lr=9")["stage"]["steps"]
    assert list(gallery) == ["vae", "vae_gan", "flow", "polish"]
    assert gallery["vae_gan"]["trainer"]["adversarial"]["weight"] == 0.05
    assert (gallery["flow"]["optimizers"]["flow"]["lr"], gallery["polish"]["optimizers"]["flow"]["lr"]) == (9, 0.0001)
    for stage in ("sharp", "gallery"):
        assert check.problems(composed(mine, stage)) == []


def test_the_pipeline_trains_to_its_end(mine: Path) -> None:
    short = [f"stage.steps.{step}.{key}" for step in ("vae", "vae_gan", "flow", "polish")
             for key in ("max_updates=1", "batch_size=8")]  # fmt: skip
    pipeline.run(composed(mine, "gallery", *TOY, *short, f"output_root={mine}"))
    assert (mine / "gallery" / "weights" / "polish.safetensors").is_file()
    assert (mine / "gallery" / "summary.json").is_file()
