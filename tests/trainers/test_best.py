"""The best point of a step: a loss that rises picks the earlier one, and so does a run that was killed."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fluxflow_exp import evaluate, pipeline, verify
from fluxflow_exp.errors import UserError
from fluxflow_exp.evaluation.published_model import Subject
from fluxflow_exp.evaluation.record import of_run
from fluxflow_exp.models import weights
from fluxflow_exp.report.command import write_card
from fluxflow_exp.run.diff import differences
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.trainers import publish
from fluxflow_exp.trainers.autoencoder import AutoencoderTrainer
from tests.conftest import toy
from tests.helpers.children import KillDuring, finish, finish_ranks
from tests.helpers.trainers import START, build

LOSSES = [0.5, 0.3, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45]  # of the ends of epochs, four updates each
FEW = ["stage.steps.vae.n_epochs=8", "stage.steps.vae.batch_size=8", "samples.every_epochs=null", "health.images=null"]
BEST = "publish.weights=best"


def planted() -> None:
    """Held-out losses are those above, whatever the weights are."""

    def evaluate(self: Any, *, last: bool, raw: bool = False) -> dict[str, float]:
        return {"val_l1": LOSSES[self.update_index // 4 - 1]}

    AutoencoderTrainer.evaluate = evaluate  # type: ignore[method-assign]


def values_of(root: Path, *overrides: str) -> dict[str, Any]:
    return toy(root, *FEW, "checkpoint.every_updates=2", "checkpoint.keep=20", *overrides, stage="vae")


def state(run: Path, update: int) -> Any:
    (path,) = (run / "checkpoints").glob(f"01-vae-{update:08d}-*.pt")
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("undisturbed")
    assert finish(values_of(root), root / "log", planted) == 0, (root / "log").read_text()
    return root / "vae"


def test_a_loss_that_rises_picks_the_earlier_point(undisturbed: Path) -> None:
    assert state(undisturbed, 10)["best"]["update"] == 8
    best = state(undisturbed, 32)["best"]
    assert (best["update"], best["loss"]) == (12, 0.2)
    averages = state(undisturbed, 12)["players"]["vae"]["ema"]["average"]
    assert best["weights"].keys() == averages.keys() == {"compressor", "expander"}
    for part, tensors in averages.items():
        assert all(torch.equal(best["weights"][part][name], tensor) for name, tensor in tensors.items())
    entry = json.loads((undisturbed / "summary.json").read_text())["steps"]["vae"]
    assert entry["best"] == {"update": 12, "metric": "val_l1", "value": 0.2}
    line = "held-out loss (val_l1) was lowest at update 12 of 32 and has risen since: more data, not more time"
    assert entry["verdict"] == line
    assert f"Step vae: {line}" in (undisturbed / "log.txt").read_text()
    assert f"vae: {line}" in (undisturbed / "report.html").read_text()


@pytest.mark.parametrize(("count", "moment"), [(6, "before"), (6, "after"), (7, "before")])
def test_killed_around_the_best_evaluation_it_is_picked_again(
    tmp_path: Path, undisturbed: Path, count: int, moment: str
) -> None:
    """The sixth save follows the best evaluation; the seventh is the next."""
    kill = KillDuring("fluxflow_exp.run.checkpoint:CheckpointStore", "save", count, moment)
    assert finish(values_of(tmp_path), tmp_path / "log", planted, kill) == -signal.SIGKILL
    assert finish(values_of(tmp_path), tmp_path / "log", planted) == 0, (tmp_path / "log").read_text()
    found, counts = differences(tmp_path / "vae", undisturbed)
    assert found == []
    assert counts["states"]


def test_the_best_point_is_published_where_it_is_asked_for(tmp_path: Path, undisturbed: Path) -> None:
    values, log = values_of(tmp_path, BEST), tmp_path / "log"
    assert finish(values, log, planted) == 0, log.read_text()
    run = tmp_path / "vae"
    final = run / "weights" / "final.safetensors"
    best = state(undisturbed, 32)["best"]["weights"]
    held = load_file(final)
    assert all(torch.equal(held[f"{part}.{name}"], t) for part, each in best.items() for name, t in each.items())
    assert weights.read_facts(final)["best"] == {"vae": 12}
    assert "(step vae at update 12, its best point)" in log.read_text()
    with pytest.raises(ValueError, match=r"of step vae at update 12, its best point, whose raw weights were not kept"):
        weights.load_part(final, "expander", kind="raw")
    for name in ("vae.safetensors", "vae.raw.safetensors"):
        assert (run / "weights" / name).read_bytes() == (undisturbed / "weights" / name).read_bytes()


def test_interpolated_weights_lie_between_the_best_point_and_the_end(tmp_path: Path, undisturbed: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "vae")
    folder = RunFolder(tmp_path / "vae")
    final = folder.weights / "final.safetensors"
    last, best = load_file(final), state(undisturbed, 32)["best"]["weights"]
    pipeline.run(values_of(tmp_path, "publish.weights=interpolated"))
    held, facts = load_file(final), weights.read_facts(final)
    assert held.keys() == last.keys()
    for part, tensors in best.items():
        for name, at_best in tensors.items():
            at_end = last[f"{part}.{name}"]
            assert torch.allclose(held[f"{part}.{name}"], 0.75 * at_end + 0.25 * at_best, rtol=1e-6, atol=1e-7)
    assert any(not torch.equal(held[name], tensor) for name, tensor in last.items())
    assert (facts["best"], facts["last_share"]) == ({"vae": 12}, 0.75)
    assert weights.moment(facts, "vae") == "between update 12, its best point, and its end (0.75 of the way)"
    assert evaluate.main([str(folder.path), "--metrics", "psnr", "--images", "8", "--device", "cpu"]) == 0
    (record,) = of_run(folder.path)
    assert (record.update, record.last_share) == (32, 0.75)
    card = write_card(folder).read_text()
    assert "<td>vae, 32, interpolated</td>" in card
    assert f"final.safetensors has step vae {weights.moment(facts, 'vae')}; what was logged" in card
    for other in (BEST, "publish.weights=last"):  # each is told from the others
        pipeline.run(values_of(tmp_path, other))
        assert weights.read_facts(final).get("last_share") is None
        assert Subject(folder.path).last_share("vae") is None
        card = write_card(folder).read_text()
        assert "<td>vae, 32, interpolated; final.safetensors has other weights now</td>" in card
    assert "what was logged while training is of its end" not in card
    assert all(torch.equal(tensor, last[name]) for name, tensor in load_file(final).items())


def test_a_finished_run_follows_another_choice_there_and_back(tmp_path: Path, undisturbed: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "vae")
    folder = RunFolder(tmp_path / "vae")
    final = folder.weights / "final.safetensors"
    last = final.read_bytes()
    pipeline.run(values_of(tmp_path, BEST))
    assert weights.read_facts(final)["best"] == {"vae": 12}
    assert verify.problems(folder)[0] == []
    pipeline.run(values_of(tmp_path))
    assert final.read_bytes() == last
    assert verify.problems(folder)[0] == []
    for path in folder.checkpoints.glob("*.pt"):
        path.unlink()
    with pytest.raises(
        UserError, match=r"publish.weights=best: update 12 of step vae is in that step's last checkpoint"
    ):
        pipeline.run(values_of(tmp_path, BEST))


def test_a_best_point_that_is_the_end_is_said_to_be(tmp_path: Path) -> None:
    pipeline.run(values_of(tmp_path, "stage.steps.vae.n_epochs=1"))
    folder = RunFolder(tmp_path / "vae")
    last = (folder.weights / "final.safetensors").read_bytes()
    for choice in ("best", "interpolated"):
        said = publish.follow_choice(folder, ["vae"], choice=choice)
        assert said == f"publish.weights={choice}: the best point of step vae is its end"
        assert (folder.weights / "final.safetensors").read_bytes() == last
    assert publish.follow_choice(folder, ["vae"], choice="last") is None


def test_with_an_adversarial_loss_no_point_is_the_best(tmp_path: Path) -> None:
    trainer, _ = build(tmp_path, "vae_gan", *START)
    trainer.setup.folder.graph.mkdir(parents=True)
    trainer.validate()
    assert trainer.held_out
    assert trainer.best is None


def test_nothing_is_kept_of_a_loss_that_is_no_number_or_no_lower(tmp_path: Path) -> None:
    trainer, _ = build(tmp_path, "vae")
    for update, loss in enumerate([float("nan"), 2.0, 2.0, float("inf"), 3.0]):
        trainer.update_index = update
        trainer._keep_best(loss)
    assert trainer.best[:2] == (1, 2.0)


def test_ranks_of_a_sharded_flow_keep_whole_weights(tmp_path: Path) -> None:
    steps = [f"stage.steps.{step}.{key}" for step in ("vae", "flow") for key in ("n_epochs=1", "batch_size=8")]
    chosen = ["~stage.steps.vae_gan", *steps, "samples.every_epochs=null", "health.images=null"]
    sharded = toy(tmp_path, *chosen, "hardware.parallel=fsdp")
    assert finish_ranks(sharded, tmp_path / "log", 2) == [0, 0], (tmp_path / "log.0").read_text()
    (path,) = (tmp_path / "quickstart" / "checkpoints").glob("02-flow-*-final-*.pt")
    best = torch.load(path, weights_only=True)["best"]["weights"]
    held = load_file(tmp_path / "quickstart" / "weights" / "flow.safetensors")
    kept = {f"{part}.{name}": tensor for part, tensors in best.items() for name, tensor in tensors.items()}
    assert kept.keys() == held.keys()
    assert all(torch.equal(held[name], tensor) for name, tensor in kept.items())
