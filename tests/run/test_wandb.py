"""One logical run on W&B: each row once, whatever happens; and training never waits for a dashboard."""

import json
import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fluxflow_exp import sync
from fluxflow_exp.config.compose import resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.config.schema import Tracking
from fluxflow_exp.console import Console
from fluxflow_exp.run import wandb
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.metric_log import read_rows
from tests.conftest import toy
from tests.helpers.children import KillDuring, finish
from tests.helpers.wandb_files import history

KEY = "0" * 40


@pytest.fixture(autouse=True)
def _wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """W&B is on in these tests, and knows no key of the machine that they run on."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


class Environment:
    """Variables of a child; those of this process were fixed when its server of children started."""

    def __init__(self, **variables: str) -> None:
        self.variables = variables

    def __call__(self) -> None:
        import os

        os.environ.pop("WANDB_MODE", None)
        os.environ |= self.variables


def rows_of(run: Path) -> list[Any]:
    return [
        row
        for step in ("vae", "vae_gan", "flow")
        for row in read_rows(run / "graph" / f"training_metrics_{step}.jsonl")
    ]


@pytest.mark.slow
def test_after_three_kills_offline_each_row_stands_there_once(tmp_path: Path) -> None:
    values, log = toy(tmp_path, "tracking=wandb", "tracking.mode=auto"), tmp_path / "log"
    offline = Environment(HOME=str(tmp_path), NETRC=str(tmp_path / "netrc"))
    moments = [
        KillDuring("fluxflow_exp.trainers.base:Trainer", "update", 5),
        KillDuring("fluxflow_exp.trainers.base:Trainer", "_log", 3, "after"),
        KillDuring("fluxflow_exp.trainers.validation:Validated", "validate", 2, "after"),
    ]
    for moment in moments:
        assert finish(values, log, offline, moment) == -9, log.read_text()
    assert finish(values, log, offline) == 0, log.read_text()
    run = tmp_path / "quickstart"
    rows, found = rows_of(run), history(run)
    assert [entry["_step"] for entry in found] == list(range(len(rows)))
    for row, entry in zip(rows, found, strict=True):
        (step,) = {key.partition("/")[0] for key in entry if key.endswith("/epoch")}
        assert entry[f"{step}/update"] == row["global_step"]
        for name, value in row["metrics"].items():
            assert entry[f"{step}/{name}"] == pytest.approx(value, nan_ok=True)
    captions = [entry["flow/samples.captions"] for entry in found if "flow/samples.captions" in entry]
    assert [len(each) for each in captions] == [2, 2]
    assert all("ground" in caption for each in captions for caption in each)
    assert log.read_text().count("W&B: recorded offline") == 4
    assert json.loads((run / "run.json").read_text())["restarts"] == 3
    outside = {p.relative_to(tmp_path).parts[0] for p in tmp_path.rglob("*wandb*") if run not in p.parents}
    assert outside <= {".config"}  # but for its settings, all that W&B writes is in the run folder


@pytest.mark.slow
def test_a_key_and_a_closed_network_do_not_stop_training(tmp_path: Path) -> None:
    """One address refuses, the other one takes the connection and never answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(100)
        quiet = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for name, address in (("refused", "http://127.0.0.1:9"), ("silent", quiet)):
            values = toy(
                tmp_path / name,
                "tracking=wandb",
                "tracking.mode=auto",
                "tracking.init_seconds=5",
                "~stage.steps.vae_gan",
            )
            del values["stage"]["steps"]["flow"]
            log = tmp_path / f"{name}.log"
            started = time.monotonic()
            environment = Environment(WANDB_API_KEY=KEY, WANDB_BASE_URL=address, HOME=str(tmp_path))
            assert finish(values, log, environment) == 0, log.read_text()
            assert time.monotonic() - started < 90
            assert log.read_text().count("this run is recorded offline") == 1
            run = tmp_path / name / "quickstart"
            assert len(history(run)) == len(read_rows(run / "graph" / "training_metrics_vae.jsonl"))


class Server:
    """Stands for W&B: what it was told, and how many rows it had before."""

    def __init__(self, known: int) -> None:
        self.known, self.steps = known, [*range(known)]
        self.options: dict[str, Any] = {}
        self.values: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.finished: list[int] = []

    def init(self, **options: Any) -> Any:
        self.options = options
        return SimpleNamespace(
            step=self.known,
            url="https://wandb.example/run",
            settings=SimpleNamespace(_offline=False),
            define_metric=lambda *_, **__: None,
            log=lambda values, step: (self.steps.append(step), self.values.append(values)),
            summary=self.summary,
            log_artifact=lambda artifact: self.summary.update(artifact=artifact),
            finish=lambda exit_code: self.finished.append(exit_code),
        )


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run folder with seven rows in two steps."""
    values = toy(tmp_path, "~stage.steps.vae_gan")
    folder = RunFolder(tmp_path / "quickstart")
    folder.create(values, {"upstream": {}, "commit": "abc", "changed_code": None, "overrides": []})
    for step, count in (("vae", 4), ("flow", 3)):
        row = {"kind": "train", "metrics": {"x": 1.0, "bad": None}, "learning_rates": {"vae": 0.1}, "extras": {}}
        row |= {"epoch": 1, "batch": 1, "timestamp": "2026-01-01T00:00:00+00:00"}
        text = "".join(json.dumps({**row, "global_step": i}) + "\n" for i in range(count))
        folder.metrics(step).write_text(text)
    return folder


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Any:
    def serve(known: int) -> Server:
        server = Server(known)
        fake = SimpleNamespace(
            init=server.init,
            Settings=lambda **options: options,
            Artifact=lambda name, type: SimpleNamespace(name=name, add_reference=lambda uri: None),
        )
        monkeypatch.setitem(sys.modules, "wandb", fake)
        monkeypatch.setattr(wandb, "unreachable", lambda: None)
        return server

    return serve


@pytest.mark.parametrize("known", [0, 3, 5, 7])
def test_a_run_that_goes_on_online_sends_what_the_server_lacks(run: RunFolder, online: Any, known: int) -> None:
    server = online(known)
    tracked = wandb.WandbRun(run, Tracking(mode="auto"), Console())
    tracked.start()
    tracked.catch_up("vae")
    tracked.catch_up("flow")
    tracked.finish(code=0, metrics={"val": 1.0})
    assert server.steps == list(range(7))
    assert server.options["resume"] == "allow"
    assert server.options["job_type"] == "quickstart"
    assert server.options["tags"] == ["quickstart", "tiny"]
    assert server.options["config"]["seed"] == 0
    assert server.options["config"]["commit"] == "abc"
    assert server.finished == [0]
    assert server.summary["val"] == 1.0
    assert server.summary["artifact"].name == f"weights-{server.options['id']}"
    again = wandb.WandbRun(run, Tracking(mode="auto"), Console())
    again.start()
    assert server.options["id"] == json.loads(run.record.read_text())["wandb_id"]


def test_a_group_that_the_environment_names_is_kept(
    run: RunFolder, online: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = online(0)
    for named, group in ((None, None), ("study", "study"), (None, "study")):
        if named:
            monkeypatch.setenv("WANDB_RUN_GROUP", named)
        else:
            monkeypatch.delenv("WANDB_RUN_GROUP", raising=False)
        wandb.WandbRun(run, Tracking(mode="auto"), Console(quiet=True)).start()
        assert server.options["group"] == group


def test_numbers_of_raw_weights_do_not_hide_those_of_averaged_ones(run: RunFolder) -> None:
    row = {"metrics": {"val_psnr": 1.0}, "learning_rates": {}, "extras": {}, "global_step": 3, "epoch": 1}
    tracked = wandb.WandbRun(run, Tracking(mode="off"), Console())
    assert tracked._values("vae", {**row, "kind": "held_out"})["vae/val_psnr"] == 1.0
    assert tracked._values("vae", {**row, "kind": "held_out"})["held_out/val_psnr"] == 1.0, "whatever the step"
    assert not {"vae/val_psnr", "held_out/val_psnr"} & set(tracked._values("vae", {**row, "kind": "held_out_raw"}))
    assert tracked._values("vae", {**row, "kind": "held_out_raw"})["vae/raw/val_psnr"] == 1.0


def test_health_goes_with_the_rows_and_says_how_many_warnings_there_are(run: RunFolder, online: Any) -> None:
    server = online(0)
    for warnings in ({}, {"loss_spike": "the loss rose"}):
        row = {"kind": "health", "metrics": {"logit_gap": 0.5}, "learning_rates": {}, "extras": {}, "epoch": 1}
        row |= {"batch": 1, "timestamp": "2026-01-01T00:00:00+00:00"}
        more = {"warnings": warnings} if warnings else {}
        with run.metrics("vae").open("a") as file:
            file.write(json.dumps({**row, **more, "global_step": 4}) + "\n")
    tracked = wandb.WandbRun(run, Tracking(mode="auto"), Console())
    tracked.start()
    tracked.catch_up("vae")
    assert [values.get("vae/warnings") for values in server.values] == [None] * 4 + [0, 1]
    assert server.values[-1]["vae/logit_gap"] == 0.5


def test_an_offline_run_is_whole_when_it_is_finished(run: RunFolder) -> None:
    """Also in a process that does not run W&B's own clean-up at its end, as a rank of several."""
    tracked = wandb.WandbRun(run, Tracking(mode="offline"), Console())
    tracked.start()
    tracked.catch_up("flow")
    tracked.finish(code=0)
    assert [row["_step"] for row in history(run.path)] == list(range(7))


def test_rows_after_a_rewind_are_not_sent_twice(run: RunFolder, online: Any) -> None:
    server = online(6)  # the process that was killed had sent two rows of the flow step that are written again
    run.metrics("flow").write_text(run.metrics("flow").read_text().splitlines(True)[0])
    tracked = wandb.WandbRun(run, Tracking(mode="auto"), Console())
    tracked.start()
    tracked.catch_up("flow")
    assert server.steps == list(range(6))
    text = run.metrics("flow").read_text()
    run.metrics("flow").write_text(text * 3)
    tracked.catch_up("flow")
    assert server.steps == list(range(7))


def test_a_failing_dashboard_is_said_once_and_training_goes_on(
    run: RunFolder, online: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    server = online(0)

    def broken(**options: Any) -> Any:
        opened = server.init(**options)
        opened.log = lambda values, step: (_ for _ in ()).throw(ConnectionResetError("gone"))
        return opened

    sys.modules["wandb"].init = broken  # type: ignore[attr-defined]
    tracked = wandb.WandbRun(run, Tracking(mode="auto"), Console())
    tracked.start()
    tracked.catch_up("flow")
    tracked.catch_up("flow")
    tracked.finish(code=0)
    said = capsys.readouterr().out
    assert said.count("W&B stopped (ConnectionResetError: gone)") == 1
    assert "fluxflow_exp.sync" in said


def test_sync_sends_and_can_be_repeated(run: RunFolder, online: Any, capsys: pytest.CaptureFixture[str]) -> None:
    server = online(2)
    run.write_record({**run.read_record(), "overrides": []})
    assert sync.main([str(run.path)]) == 0
    assert server.steps == list(range(7))
    assert "7 rows, 5 of them new" in capsys.readouterr().out


def test_sync_without_a_key_says_so(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert sync.main([str(run.path)]) == 1
    assert "no key is configured" in capsys.readouterr().err
    assert sync.main([str(run.path.parent / "nowhere")]) == 2


def test_a_key_is_found_where_wandb_keeps_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not wandb.has_key()
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {KEY}\n")
    (tmp_path / "netrc").chmod(0o600)
    assert wandb.has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://elsewhere.example")
    assert not wandb.has_key()
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert wandb.has_key()


@pytest.mark.parametrize(
    ("words", "variables", "expected"),
    [
        (["tracking=off"], {"WANDB_MODE": "online"}, {"mode": "off"}),
        (["tracking=off"], {"WANDB_MODE": "offline"}, {"mode": "off"}),
        (["tracking.mode=off"], {"WANDB_MODE": "online"}, {"mode": "off"}),
        (["tracking.mode=online"], {"WANDB_MODE": "disabled"}, {"mode": "online"}),
        ([], {"WANDB_MODE": "offline"}, {"mode": "offline"}),
        ([], {"WANDB_MODE": "disabled"}, {"mode": "off"}),
        ([], {"WANDB_MODE": "dryrun"}, {"mode": "offline"}),
        ([], {"WANDB_MODE": ""}, {"mode": "auto"}),
        ([], {}, {"mode": "auto", "project": "fluxflow-exp", "entity": None}),
        ([], {"WANDB_PROJECT": "p", "WANDB_ENTITY": "e"}, {"project": "p", "entity": "e"}),
        (["tracking.project=mine", "tracking.entity=me"], {"WANDB_PROJECT": "p", "WANDB_ENTITY": "e"},
         {"project": "mine", "entity": "me"}),
    ],
)  # fmt: skip
def test_the_environment_fills_what_nobody_has_given(
    words: list[str], variables: dict[str, str], expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    tracking = resolve(compose_config(["hardware=cpu", *words]))["tracking"]
    assert {key: tracking[key] for key in expected} == expected


def test_a_run_that_is_off_records_nothing_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = RunFolder(tmp_path / "run")
    folder.create(toy(tmp_path), {"commit": None, "changed_code": False})
    run = wandb.WandbRun(folder, Tracking(mode="off"), Console(quiet=True))
    run.start()
    assert not run.opened
    assert not (folder.path / "wandb").exists()
