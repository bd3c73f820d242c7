"""A sweep: checked whole, frozen, continued by the same command, and told apart job by job."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from fluxflow_exp import status
from fluxflow_exp.config.compose import resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.preflight.check import problems
from fluxflow_exp.run import opening, refusals, states
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.sweep import jobs as sweep
from fluxflow_exp.sweep.jobs import digest
from tests.conftest import TOY, toy
from tests.helpers.children import command

REPOSITORY = Path(__file__).parents[2]
TEMPLATES = REPOSITORY / "multirun_templates"
SHORT = ["-m", "stage=vae", *TOY, "stage.steps.vae.batch_size=8", "stage.steps.vae.n_epochs=1"]


def launch(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return command(folder, *SHORT, *overrides)


def table(said: str) -> dict[str, str]:
    """Job → its line of the last table."""
    lines = said.rpartition("\noutputs/")[2].splitlines()[1:]
    return {line.split("  ")[1].strip(): line for line in lines if line.startswith("  ")}


@pytest.mark.slow
def test_failed_jobs_are_retried_and_edited_ones_are_stale(tmp_path: Path) -> None:
    groups = tmp_path / "groups" / "scheduler"
    groups.mkdir(parents=True)
    text = (REPOSITORY / "conf" / "scheduler" / "cosine.yaml").read_text()
    (groups / "mine.yaml").write_text(text)
    own = ["--config-dir", str(groups.parent), "scheduler=mine"]
    planted = [*own, "data._target_=tests.helpers.planted.Planted", "+data.plant=crash,none"]
    first = launch(tmp_path, *planted)
    assert first.returncode == 1, first.stderr
    found = table(first.stdout)
    assert "done" in found["+data.plant=none"]
    assert "failed       planted" in found["+data.plant=crash"]
    log = Path(tmp_path / found["+data.plant=crash"].partition("log: ")[2].rstrip(")"))
    assert "RuntimeError: planted" in log.read_text()
    assert "2 jobs: 1 failed, 1 done" in first.stdout

    (tmp_path / "healed").touch()
    second = launch(tmp_path, *planted)
    assert second.returncode == 0, second.stderr
    assert "1 to run" in second.stdout
    assert second.stdout.count("PIPELINE STEP") == 1
    assert "before" in table(second.stdout)["+data.plant=none"]
    assert "continued 1 time" in table(second.stdout)["+data.plant=crash"]

    (groups / "mine.yaml").write_text(text.replace("warmup: 0.02", "warmup: 0.5"))
    third = launch(tmp_path, *planted)
    assert third.returncode == 1
    assert "2 jobs: 2 stale; 0 to run" in third.stdout
    assert "PIPELINE STEP" not in third.stdout
    assert "scheduler.warmup: 0.02 there, 0.5 now" in third.stdout

    fourth = launch(tmp_path, *planted, "resume=fresh")
    assert fourth.returncode == 0, fourth.stderr
    assert fourth.stdout.count("was moved to") == 2
    assert len(list((tmp_path / "outputs" / "vae").glob("*.old-1"))) == 2


def test_every_job_is_checked_before_the_first_one_runs(tmp_path: Path) -> None:
    done = launch(tmp_path, "seed=0,1", "stage.steps.vae.batch_size=8,0")
    assert done.returncode == 2
    assert "stage.steps.vae.batch_size=0 seed=0: stage.steps.vae.batch_size must be at least 1" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_signal_stops_the_whole_sweep_and_the_same_command_continues_it(tmp_path: Path) -> None:
    long = ["seed=0,1", "stage.steps.vae.n_epochs=20", "evaluation.every_epochs=20", "samples.every_epochs=20"]
    child = subprocess.Popen(
        [sys.executable, "-m", "fluxflow_exp", *SHORT, *long], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout
    for line in child.stdout:
        if "Batch" in line:
            break
    child.send_signal(signal.SIGTERM)
    said = child.communicate(timeout=60)[0]
    assert child.returncode == 128 + signal.SIGTERM
    assert "everything is saved" in said
    assert said.count("PIPELINE STEP") == 0  # the second job did not begin
    assert status.main([str(tmp_path / "outputs" / "vae")]) == 1
    again = launch(tmp_path, *long)
    assert again.returncode == 0, again.stderr
    assert "2 jobs: 1 interrupted, 1 new; 2 to run" in again.stdout
    assert "continued 1 time" in again.stdout


def test_plans_can_be_made_where_the_gpu_is_not(tmp_path: Path) -> None:
    done = launch(tmp_path, "hydra/launcher=slurm", "hardware=a6000", "seed=0,1", "validate=true")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("PIPELINE EXECUTION PLAN") == 2
    assert list(tmp_path.iterdir()) == []


def test_plans_are_refused_as_their_jobs_would_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = {**toy(tmp_path), "validate": True}
    opening.create(RunFolder(tmp_path / "quickstart" / sweep.job_folder(values, ["seed=0"])), {**values, "seed": 7}, [])
    with pytest.raises(SystemExit) as ended:
        sweep._print_plans(["seed=0", "seed=1"], [values, {**values, "seed": 1}], [["seed=0"], ["seed=1"]])
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert "seed: 7 there, 0 asked" in said.err
    assert said.out.count("PIPELINE EXECUTION PLAN") == 1


@pytest.mark.slow
def test_an_extended_run_is_not_stale(tmp_path: Path) -> None:
    for more in ([], ["stage.steps.vae.n_epochs=2", "resume=extend"]):
        assert command(tmp_path, *SHORT[1:], *more).returncode == 0
    assert status.main([str(tmp_path / "outputs")]) == 0


def test_slurm_without_slurm_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    done = launch(tmp_path, "hydra/launcher=slurm", "seed=0")
    assert done.returncode == 2
    assert "error: hydra/launcher=slurm: there is no SLURM on this machine (no sbatch, srun, squeue)" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_each_job_has_memory_of_its_own_through_submitit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))  # of the jobs, which are new interpreters
    done = launch(tmp_path, "hydra/launcher=slurm_local", "hardware.devices=2", "seed=5")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "Submitted 1 job" in done.stdout
    (run,) = (tmp_path / "outputs" / "vae").glob("*/run.json")
    assert json.loads(run.read_text())["made_with"]["machine"].startswith("2 x CPU")


@pytest.mark.parametrize("template", sorted(p.stem for p in (TEMPLATES / "sweep").glob("*.yaml")))
def test_every_template_composes_and_passes_the_checks(template: str) -> None:
    text = (TEMPLATES / "sweep" / f"{template}.yaml").read_text()
    command = text.partition("python -m fluxflow_exp ")[2].replace("#", "").split("hydra:")[0].split()
    words = [w for w in command if "=" in w and "init_from" not in w]
    if template == "guidance_dropout":
        words[1] = "stage=quickstart"  # there are no weights of an earlier run here
    config = compose_config([*words, "tracking=off", "hardware=cpu"], config_dir=str(TEMPLATES), hydra=True)
    params = config.hydra.sweeper.params
    swept = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()])
    assert template in config.name  # studies of one stage do not meet in a folder
    (jobs,) = BasicSweeper.split_arguments(swept, None)
    assert len(jobs) > 1
    others = [*(w for w in words if not w.startswith("+sweep=")), f"name={config.name}", "hardware=cpu"]
    for job in jobs:
        assert problems(resolve(compose_config([*others, *job]))) == []


def test_a_template_is_launched_as_its_head_says(tmp_path: Path) -> None:
    template = ["--config-dir", str(TEMPLATES), "+sweep=seeds"]
    done = launch(tmp_path, *template, "validate=true")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("== ") == 5
    assert list(tmp_path.iterdir()) == []


def test_a_run_and_a_sweep_never_share_a_folder(tmp_path: Path) -> None:
    """Each is refused where the other is; `name=` is the way out, and a fresh start moves nobody else's folder."""
    facts = {"upstream": {}, "overrides": ["stage=vae"]}
    sweep, run = tmp_path / "outputs" / "sweep", tmp_path / "outputs" / "run"
    RunFolder(sweep / "seed=0-12345678").create({}, facts)
    RunFolder(run).create({}, facts)
    for fresh in ([], ["resume=fresh"]):
        done = command(tmp_path, *SHORT[1:], "name=sweep", *fresh)
        assert done.returncode == 2
        assert "outputs/sweep is the folder of a sweep (seed=0-12345678). Give this run its own name=" in done.stderr
    done = launch(tmp_path, "name=run", "seed=0,1")
    assert done.returncode == 2
    assert "error: outputs/run is the folder of a single run. Give this sweep its own name=" in done.stderr
    assert sorted(p.name for p in (tmp_path / "outputs").iterdir()) == ["run", "sweep"]


def test_what_shares_a_folder_already_goes_on(tmp_path: Path) -> None:
    values: dict[str, Any] = {"output_root": str(tmp_path), "name": "vae", "resume": "auto"}
    for folder in (tmp_path / "vae", tmp_path / "vae" / "seed=0-12345678"):
        RunFolder(folder).create({}, {})
    assert refusals.sharing_problems(values) == []
    assert refusals.sharing_problems(values, swept="seed=0-12345678") == []
    assert len(refusals.sharing_problems(values, swept="seed=1-87654321")) == 1
    assert len(refusals.sharing_problems({**values, "resume": "fresh"})) == 1


def test_status_calls_a_single_run_no_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder(tmp_path / "vae").create({"stage": {"steps": {}}}, {"upstream": {}, "overrides": ["gone=1"]})
    assert status.main([str(tmp_path)]) == 1
    assert "1 run: 1 " in capsys.readouterr().out


def test_a_digest_follows_what_makes_a_job_another_one() -> None:
    job = ["seed=1", "model=tiny"]
    assert digest(job) == digest(
        ["model=tiny", "seed=1", "hardware=cpu", "resume=fresh", "+sweep=seeds", "tracking=off"]
    )
    assert digest(job) != digest(["seed=2", "model=tiny"])


def test_labels_leave_out_what_all_jobs_share() -> None:
    assert states.labels([["a=1", "b=2"], ["a=1", "b=3"]]) == ["b=2", "b=3"]
    assert states.labels([["stage=vae", "data.img_size=16"]]) == ["stage=vae"]


def test_changed_upstream_weights_make_a_run_stale(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    source = tmp_path / "vae.safetensors"
    source.write_bytes(b"weights")
    run.create({"model": {}}, {"upstream": {str(source): "0" * 64}})
    assert states.inspect(run).state == states.STALE
    source.unlink()
    assert "is gone" in states.inspect(run).note


def test_a_held_folder_is_running(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.create({"stage": {"steps": {"vae": {}}}}, {"upstream": {}})
    assert states.inspect(run).state == states.NEW
    run.lock()
    assert states.inspect(RunFolder(run.path)).state == states.RUNNING
    run.unlock()


def test_a_jobs_folder_is_held_while_the_sweep_makes_it_and_left_alone_while_another_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = resolve(compose_config(["stage=vae", *TOY, f"output_root={tmp_path}"]))
    held = []
    created = opening.create
    monkeypatch.setattr(
        opening, "create", lambda folder, *more: (held.append(RunFolder(folder.path).in_use()), created(folder, *more))
    )
    job = sweep._job("seed=0", ["seed=0"], values)
    assert (job.entry.state, held, job.folder.in_use()) == (states.NEW, [True], False)
    before = job.folder.record.read_bytes()
    job.folder.lock()
    again = sweep._job("seed=0", ["seed=0"], {**values, "seed": 1, "resume": "fresh"})  # stale, if it did not run
    assert again.entry.state == states.RUNNING
    assert job.folder.record.read_bytes() == before
    job.folder.unlock()
    again = sweep._job("seed=0", ["seed=0"], {**values, "seed": 1, "resume": "fresh"})
    assert again.entry.state == states.NEW
    assert again.folder.frozen()["seed"] == 1


def test_status_says_when_there_is_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main([str(tmp_path)]) == 2
    assert "there is no run" in capsys.readouterr().err
