"""A value that is not finite at a known module and update: what a run says of it, and what doing it again finds.

Covers trainers/nonfinite_report, monitor/finite and module_hooks as well.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fluxflow_exp import files, pipeline, replay
from fluxflow_exp.errors import UserError
from fluxflow_exp.losses.kl import KL
from fluxflow_exp.monitor.finite import NonFiniteError, Place
from fluxflow_exp.monitor.module_hooks import NonFiniteHooks
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.metric_log import read_rows
from fluxflow_exp.trainers.base import Trainer
from tests.conftest import toy

UPDATE = 6  # that fails, from 1
VAE = ["~stage.steps.vae_gan", "~stage.steps.flow", "log_every=1", "samples.every_epochs=null"]
Spoil = Callable[[Trainer], None]


def wide(trainer: Trainer) -> nn.Module:
    """The module that overflows: a convolution in the middle of the expander."""
    return next(m for n, m in trainer.setup.parts["expander"].named_modules() if n.endswith("widen"))


def overflow_forward(trainer: Trainer) -> None:
    """Its activations overflow for the third sample of update 6."""
    original = wide(trainer).forward

    def forward(x: Tensor) -> Tensor:
        found: Tensor = original(x)
        if trainer.update_index == UPDATE - 1 and torch.is_grad_enabled():
            found = found * torch.where(torch.arange(len(found)) == 2, 1e38, 1.0).view(-1, 1, 1, 1) * 1e3
        return found

    wide(trainer).forward = forward  # type: ignore[method-assign]


class Overflowing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * float("inf")


def overflow_backward(trainer: Trainer) -> None:
    """The gradient of its inputs overflows in update 6, where everything forward is finite."""
    original = wide(trainer).forward

    def forward(x: Tensor) -> Tensor:
        failing = trainer.update_index == UPDATE - 1 and x.requires_grad
        found: Tensor = original(Overflowing.apply(x) if failing else x)
        return found

    wide(trainer).forward = forward  # type: ignore[method-assign]


def spoil_loss(trainer: Trainer) -> None:
    """The divergence of update 6 overflows in the loss itself."""
    kl: KL = trainer.kl  # type: ignore[attr-defined]

    class Overflows(KL):
        def __call__(self, mean: Tensor, logvar: Tensor) -> Any:
            return super().__call__(mean, logvar + 1000.0 * (trainer.update_index == UPDATE - 1))

    kl.__class__ = Overflows


def nothing(trainer: Trainer) -> None:
    """Everything is finite."""


CASES: dict[str, tuple[Spoil, str | None, str | None]] = {  # fault → loss, direction
    "forward": (overflow_forward, "l1", "forward"),
    "backward": (overflow_backward, None, "backward"),
    "loss": (spoil_loss, "kl", None),
}


@pytest.fixture(autouse=True)
def _unspoiled() -> Iterator[None]:
    init = Trainer.begin
    yield
    Trainer.begin = init  # type: ignore[method-assign]


def plant(fault: Spoil) -> None:
    """Every trainer that begins from here on has the fault."""
    begin = Trainer.begin

    def spoiled(trainer: Trainer) -> None:
        fault(trainer)
        begin(trainer)

    Trainer.begin = spoiled  # type: ignore[method-assign]


def digests(run: Path) -> dict[str, str]:
    found = {str(p.relative_to(run)): files.digest(p) for p in run.rglob("*") if p.is_file()}
    return {name: digest for name, digest in found.items() if not name.startswith("replay/")}


@pytest.mark.parametrize("case", list(CASES))
def test_a_run_and_its_replay_name_module_loss_update_and_samples(
    tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fault, term, direction = CASES[case]
    plant(fault)
    with pytest.raises(UserError, match=r"is not finite at update 6 of step 'vae'") as raised:
        pipeline.run(toy(tmp_path, *VAE, "checkpoint.every_updates=4"))
    run = tmp_path / "quickstart"
    record = files.read_json(run / "non_finite.json")
    assert set(record) == {"step", "update", "term", "module", "ids", "player", "message"}
    assert (record["step"], record["update"], record["term"], record["player"]) == ("vae", 6, term, "vae")
    assert record["message"] == str(raised.value)
    assert f"python -m fluxflow_exp.replay {run} --step vae --update 6" in record["message"]
    if direction:
        assert record["module"].startswith("expander.")
        assert record["module"].endswith(".widen")
        assert f"{record['module']} ({direction} pass)" in record["message"]
    else:
        assert record["module"] is None
    assert len(record["ids"]) == (1 if case == "forward" else 8)

    before = digests(run)
    assert replay.main([str(run), "--json", str(tmp_path / "found.json")]) == 1
    assert digests(run) == before
    found = json.loads((tmp_path / "found.json").read_text())
    assert {key: found[key] for key in ("step", "update", "term", "module", "ids", "player")} == {
        key: record[key] for key in ("step", "update", "term", "module", "ids", "player")
    }
    assert found["direction"] == direction
    assert set(found["images"]) == set(record["ids"])
    assert all(Path(path).read_bytes()[1:4] == b"PNG" for path in found["images"].values())
    said = capsys.readouterr().out
    assert "from the checkpoint after update 4" in said
    if direction:
        assert [each["bad"] > 0 for each in found["around"]].index(True) == len(found["around"]) - 3
        assert f"begins in the module {record['module']} ({direction} pass)" in said


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    pipeline.run(toy(root, "log_every=2", "samples.every_epochs=null", "scheduler=plateau"))
    return root / "quickstart"


@pytest.mark.parametrize(("step", "update"), [("vae", 6), ("vae_gan", 4), ("flow", 8)])
def test_a_finite_update_gives_the_logged_numbers_bit_for_bit_and_changes_nothing(
    sound: Path, step: str, update: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digests(sound)
    found = tmp_path / "found.json"
    assert replay.main([str(sound), "--step", step, "--update", str(update), "--json", str(found)]) == 0
    assert digests(sound) == before
    rows = read_rows(sound / "graph" / f"training_metrics_{step}.jsonl")
    (logged,) = (r["metrics"] for r in rows if r["kind"] == "train" and r["global_step"] == update)
    again = json.loads(found.read_text())
    assert again["row"] == logged
    assert again["same_as_logged"] is True
    said = capsys.readouterr().out
    assert f"Everything in update {update} of step {step} is finite" in said
    assert "bit for bit the logged one" in said


def test_another_row_is_said_to_be_another(sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(sound, run)
    rows = run / "graph" / "training_metrics_vae.jsonl"
    rows.write_text(rows.read_text().replace('"vae_norm": ', '"vae_norm": 1'))
    assert replay.main([str(run), "--step", "vae", "--update", "2"]) == 0
    assert "not the logged one" in capsys.readouterr().out


def test_after_an_interruption_it_replays_from_the_checkpoint_that_was_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = toy(tmp_path, *VAE, "checkpoint.every_updates=3")
    update, calls = Trainer.update, [0]

    def interrupted(self: Trainer, batch: Any) -> None:
        calls[0] += 1
        if calls[0] == 5:
            raise KeyboardInterrupt
        update(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(values)
    plant(overflow_forward)
    with pytest.raises(UserError, match="It begins in expander"):
        pipeline.run(values)
    run = tmp_path / "quickstart"
    assert replay.main([str(run)]) == 1
    assert "from the checkpoint after update 3" in capsys.readouterr().out
    assert replay.main([str(run), "--update", "7"]) == 2
    assert "before update 7: the loss 'l1' is not finite at update 6" in capsys.readouterr().err


def test_a_start_takes_the_record_away(tmp_path: Path) -> None:
    values = toy(tmp_path, *VAE)
    begin = Trainer.begin
    plant(spoil_loss)
    with pytest.raises(UserError, match="No module gives it"):
        pipeline.run(values)
    assert (tmp_path / "quickstart" / "non_finite.json").exists()
    Trainer.begin = begin  # type: ignore[method-assign]
    pipeline.run(values)
    assert not (tmp_path / "quickstart" / "non_finite.json").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--step", "vea"], "this run has no such step; did you mean 'vae'?"),
        (["--update", "0"], "updates count from 1"),
        (["--step", "vae", "--update", "99"], "step vae has 8 updates"),
    ],
)
def test_what_cannot_be_repeated_is_said(
    sound: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay.main([str(sound), *arguments]) == 2
    assert says in capsys.readouterr().err


@pytest.fixture
def copied(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "copied"))


def test_a_run_whose_weights_are_gone_is_named(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(copied / "weights")
    assert replay.main([str(copied), "--step", "flow", "--update", "2"]) == 2
    assert f"error: {copied} holds no published weights" in " ".join(capsys.readouterr().err.split())


def test_a_record_of_a_failure_that_is_not_whole_is_named(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copied / "non_finite.json").write_text("{")
    assert replay.main([str(copied)]) == 2
    assert str(copied / "non_finite.json") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("device", "cuda", "this run was trained on a GPU (hardware=cpu), and this machine shows none"),
        ("turbo", True, "the configuration does not fit this version: Key 'turbo' not in 'Hardware' (hardware.turbo)"),
    ],
)
def test_a_run_of_another_machine_or_version_is_said(
    copied: Path, key: str, value: Any, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    folder = RunFolder(copied)
    values = folder.frozen()
    values["hardware"][key] = value
    folder.freeze(values)
    assert replay.main([str(copied), "--step", "vae", "--update", "1"]) == 2
    assert says in " ".join(capsys.readouterr().err.split())


def test_a_folder_without_a_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay.main([str(tmp_path)]) == 2
    assert "there is no run in" in capsys.readouterr().err


class Halves(nn.Module):
    """Two layers; the second one's input is spoiled between them if `factor` is infinite."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.first, self.second, self.factor = nn.Linear(3, 3), nn.Linear(3, 3), factor

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.second(self.first(x) * self.factor)
        return found


def failed(term: str | None) -> NonFiniteError:
    return NonFiniteError("", Place("vae", 1, ("vae",)), "vae", term, [])


def test_what_is_spoiled_between_two_modules_is_the_work_of_the_one_around_them() -> None:
    model = nn.Sequential(nn.Linear(3, 3), Halves(float("inf")))
    with NonFiniteHooks({"part": model}) as hooks:
        model(torch.ones(2, 3))
    place, module = hooks.origin(failed("l1")) or (0, "")
    assert module == "part.1"
    assert hooks.seen[place].module == "part.1.second"
    assert [each.bad for each in hooks.seen[:2]] == [0, 0]


def test_a_weight_that_is_no_number_is_found_where_it_is() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), Halves(1.0))
    with torch.no_grad():
        model[2].first.weight[0, 0] = float("nan")  # type: ignore[union-attr, index, operator]
    with NonFiniteHooks({"part": model}) as hooks:
        model(torch.ones(2, 3))
    assert (hooks.origin(failed("l1")) or ("", ""))[1] == "part.2.first"


def test_a_finite_pass_has_no_origin_and_keeps_its_numbers() -> None:
    model, x = nn.Sequential(nn.Linear(3, 3), Halves(1.0)), torch.ones(2, 3)
    model(x).sum().backward()
    plain = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    with NonFiniteHooks({"part": model}) as hooks:
        model(x).sum().backward()
    assert hooks.origin(failed(None)) is None
    assert all(torch.equal(p.grad, q) for p, q in zip(model.parameters(), plain, strict=True) if p.grad is not None)
    assert {each.direction for each in hooks.seen} == {"forward", "backward"}
    count = len(hooks.seen)
    model(x).sum().backward()
    assert len(hooks.seen) == count
