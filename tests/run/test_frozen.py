"""A run folder's config.yaml may be anybody's: what is refused before anything is built of it."""

import json
import re
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from fluxflow_exp import evaluate, pipeline, replay, status
from fluxflow_exp.config import published
from fluxflow_exp.config.compose import instantiate, resolve, typed
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.errors import UserError
from fluxflow_exp.evaluation.during_training import ValidationMetrics
from fluxflow_exp.run import frozen
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.sweep import jobs
from fluxflow_exp.wiring import command as wiring
from tests.conftest import TOY, toy

STREAM = {"_target_": "fluxflow_exp.data.webdataset.WebDataset", "urls": "pipe:touch harm", "epoch_size": 8}
FETCH = {"_target_": "torch.hub.load_state_dict_from_url", "url": "http://127.0.0.1:9/x"}
VAE = "stage.steps.vae"
STEP = {"n_epochs": 1, "batch_size": 8, "trainer": {}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    pipeline.run(toy(root, "~stage.steps.vae_gan", "~stage.steps.flow", f"{VAE}.max_updates=3"))
    return root / "quickstart"


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run, by a user who has named nothing."""
    monkeypatch.setattr(published, "_own", set())
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(trained, tmp_path / "run"))


def put(run: Path, key: str, value: Any) -> None:
    """Write `value` into the run's config.yaml."""
    path = run / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    *parents, last = key.split(".")
    node = config
    for name in parents:
        node = node[name]
    node[last] = value
    path.write_text(yaml.safe_dump(config), encoding="utf-8")


FOREIGN = [
    (f"{VAE}.trainer.kl", FETCH, f"{VAE}.trainer.kl: refusing to build 'torch.hub.load_state_dict_from_url'"),
    (f"{VAE}.trainer", FETCH, f"{VAE}.trainer: refusing to build"),
    (f"{VAE}.trainer.kl.weight", FETCH, f"{VAE}.trainer.kl.weight: nothing is built here"),
    (f"{VAE}.optimizers.vae._target_", "torch.optim.lr_scheduler.os.system", f"{VAE}.optimizers.vae: refusing to"),
    (f"{VAE}.trainer.kl._args_", ["harm"], "takes no '_args_'"),
    (f"{VAE}.trainer.kl._partial_", True, f"{VAE}.trainer.kl._partial_ must be false: a loss"),
    (f"{VAE}.optimizers.vae._partial_", False, f"{VAE}.optimizers.vae._partial_ must be true: it gets"),
    (f"{VAE}.trainer.kl._target_", "fluxflow_exp.data.shapes.Shapes", "fluxflow_exp.data.shapes.Shapes is no loss"),
    ("model.expander", None, "model.expander is not a part"),
    ("model.expander.activation", "swish", "model.expander.activation='swish'"),
    ("name", "${oc.env:HOME}", "name is an interpolation (${oc.env:HOME})"),
    ("seed", 2**70, "seed is a number of more than 64 bits"),
    ("stage.steps", {"../../x": STEP}, "'../../x' is not the name of a step"),
    ("data", STREAM, "data.urls: refusing to run the command 'touch harm'"),
    ("data", {**STREAM, "urls": ["http://127.0.0.1:9/{0..9}.tar"]}, "data.urls: refusing to open http://127.0.0.1:9/"),
    ("data", {**STREAM, "urls": "x.tar", "token_env": "KEY"}, "data.token_env: refusing to send the value of the env"),
    ("evaluation", {"metrics": ["rfd"], "features": "a/b"}, "evaluation.features: refusing to fetch the network 'a/b'"),
    (f"{VAE}.trainer.kl", {"_target_": "own.X\x1b[2K"}, "refusing to build 'own.X\\x1b[2K', which is no class of this"),
    ("data", {**STREAM, "urls": "pipe:x\x1b[2K"}, "data.urls: refusing to run the command 'x\\x1b[2K'"),
    ("hardware", 3, "the configuration does not fit this version"),
]


@pytest.mark.parametrize(("key", "value", "message"), FOREIGN)
def test_what_a_file_must_not_name_is_refused_by_name(run: Path, key: str, value: Any, message: str) -> None:
    put(run, key, value)
    with pytest.raises(UserError, match=re.escape(message)):
        frozen.to_build(run / "config.yaml")


@pytest.mark.parametrize("word", ["x\x1b[2Kx", "x\x9b2Kx", "x\rx", "x\u202ex"])
def test_what_a_terminal_obeys_is_shown_escaped_and_not_advised(run: Path, word: str) -> None:
    put(run, "data", {**STREAM, "urls": f"http://{word}", "token_env": word})
    with pytest.raises(UserError) as raised:
        frozen.to_build(run / "config.yaml")
    assert str(raised.value).replace("\n", "").isprintable()
    assert "refusing to open http://x" in str(raised.value)
    assert "--trust" not in str(raised.value)
    put(run, "data", {"_target_": "fluxflow_exp.data.shapes.Shapes", word: 1})
    with pytest.raises(UserError) as raised:
        frozen.to_build(run / "config.yaml")
    assert str(raised.value).replace("\n", "").isprintable()


class Wrap:
    """A user's own data set or loss, of another one."""

    def __init__(self, *, inner: Any, **others: Any) -> None:
        self.inner = inner


SHAPES = {"_target_": "fluxflow_exp.data.shapes.Shapes", "img_size": 16, "n_images": 8}


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (SHAPES, None),
        ({"_target_": f"{__name__}.Wrap", "inner": [SHAPES]}, None),
        ({**SHAPES, "n_images": "many"}, "data.inner.n_images='many'"),
        (
            {"_target_": f"{__name__}.Other"},
            f"data.inner: refusing to build '{__name__}.Other'.* add --trust {__name__}",
        ),
        ({"_target_": f"{__name__}.Wrap", "inner": FETCH}, "data.inner.inner: refusing to build 'torch.hub"),
        (STREAM, "data.inner.urls: refusing to run the command 'touch harm'.*--trust 'pipe:touch harm'"),
    ],
)
def test_within_an_own_class_stands_what_is_known_or_trusted(run: Path, inner: Any, message: str | None) -> None:
    published.allow([f"{__name__}.Wrap"])
    put(run, "data", {"_target_": f"{__name__}.Wrap", "inner": inner})
    if message is None:
        assert frozen.to_build(run / "config.yaml")["data"]["inner"] == inner
    else:
        with pytest.raises(UserError, match=message):
            frozen.to_build(run / "config.yaml")


def test_an_own_class_that_is_not_trusted_yet_is_all_that_is_refused(run: Path) -> None:
    put(run, "data", {"_target_": f"{__name__}.Wrap", "inner": SHAPES})
    with pytest.raises(UserError) as raised:
        frozen.to_build(run / "config.yaml")
    assert len(raised.value.args) == 1
    assert f"add --trust {__name__}.Wrap" in str(raised.value)


def test_networks_of_metrics_and_losses_are_looked_for_here_alone(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(run))
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda *_: pytest.fail("it is fetched"))
    perceptual = {"_target_": published.PERCEPTUAL, "net": "squeeze"}
    put(run, f"{VAE}.trainer.perceptual", perceptual)
    put(run, "evaluation", {"metrics": ["lpips", "rfd"], "features": "a/b"})
    published.allow(["a/b"])
    values = frozen.to_build(run / "config.yaml")
    with pytest.raises(ValueError, match=r"squeezenet1_1-b8a52dc0.pth .5 MB., which is not in .*Where there is a net"):
        instantiate(values["stage"]["steps"]["vae"]["trainer"]["perceptual"])
    with pytest.raises(ValueError, match=r"evaluation.metrics: lpips: .*alexnet.* which is not in"):
        ValidationMetrics(typed(values).evaluation, of="reconstructions", img_size=64, device=torch.device("cpu"))
    assert COMMANDS["replay"](run) == 2


COMMANDS = {
    "replay": lambda run: replay.main([str(run)]),
    "wiring": lambda run: wiring.main(["--run", str(run)]),
    "evaluate": lambda run, *more: evaluate.main(
        [str(run), *more, "--images", "4", "--metrics", "psnr", "--device", "cpu"]
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_that_build_of_a_run_refuse_what_it_must_not_name(
    command: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(run, "data", STREAM)
    assert COMMANDS[command](run) == 2
    assert "--trust 'pipe:touch harm'" in capsys.readouterr().err
    assert not Path("harm").exists()


def test_all_words_that_evaluate_needs_are_said_at_once(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(run, "data", {"_target_": "own.A", "inner": {"_target_": "own.B"}})
    assert COMMANDS["evaluate"](run) == 2
    assert "own.A, own.B, which are none of this package's. If you trust them, add --trust own.A --trust own.B" in (
        capsys.readouterr().err
    )
    assert COMMANDS["evaluate"](run, "--trust", "own.A", "own.B") == 2
    assert "own.B is no data.KEY=VALUE; several words to trust are --trust own.A --trust own.B" in (
        capsys.readouterr().err
    )


def test_what_the_user_trusts_is_done(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(run, "data", STREAM)
    assert COMMANDS["evaluate"](run, "--trust", "pipe:touch harm") == 2
    assert "0 held-out samples" in capsys.readouterr().err
    assert Path("harm").exists()
    Path("harm").unlink()
    assert COMMANDS["evaluate"](run, "data.urls=pipe:touch harm; true") == 2
    assert Path("harm").exists()


def test_a_text_encoder_that_a_file_names_is_looked_for_here_alone(run: Path) -> None:
    put(run, "model.text_encoder", {"_target_": published.ENCODER, "name": "someone/encoder"})
    assert frozen.to_build(run / "config.yaml")["model"]["text_encoder"]["local"] is True


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!bool maybe", "cannot be read"),
        ("a: !!python/object/apply:os.system [touch harm]", "cannot be read"),
        ("[" * 1200, "cannot be read"),
        ("a: &a [*a]", "too deep"),
        (
            "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(f"b{i}: &b{i} [{f'*b{i - 1},' * 9}]\n" for i in range(1, 9)),
            "more than 100000 values",
        ),
        ("1: x", "has the key 1"),
        ("a: 2020-01-01", "a is a date"),
        ('a: "\\ud800"', "cannot be read|a is '"),
        ('a: "\\0"', "a is '"),
    ],
)
def test_yaml_that_no_run_writes_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text.replace("*b0", "1"), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        frozen.read_config(path)


@pytest.fixture
def job(tmp_path: Path) -> tuple[RunFolder, dict[str, Any], list[str]]:
    """A job of a sweep that was launched, and what its command composes."""
    overrides = ["seed=3"]
    values = resolve(compose_config(["stage=vae", *TOY, f"output_root={tmp_path}", *overrides]))
    folder = RunFolder(tmp_path / "vae" / jobs.job_folder(values, overrides))
    folder.path.mkdir(parents=True)
    folder.freeze(values)
    return folder, deepcopy(values), overrides


def test_a_job_builds_and_writes_what_its_own_command_says(
    job: tuple[RunFolder, dict[str, Any], list[str]], tmp_path: Path
) -> None:
    folder, values, overrides = job
    for key, value in (("output_root", "/elsewhere"), ("name", "other"), ("cache.path", "/elsewhere")):
        put(folder.path, key, value)
    then, _, _ = jobs.launched(values, overrides)
    assert (then["output_root"], then["name"], then["cache"]["path"]) == (str(tmp_path), "vae", None)
    put(folder.path, f"{VAE}.trainer.kl", FETCH)
    with pytest.raises(UserError, match="command that launches this job does not name it"):
        jobs.launched(values, overrides)


def test_status_asks_nothing_of_this_machine(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "overrides": ["hydra.searchpath=[pkg://harm]"]}))
    assert status.main([str(run)]) == 0
    assert "done" in capsys.readouterr().out
