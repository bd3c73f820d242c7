"""The command as a newcomer meets it: what it says, what it leaves, how it exits."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from fluxflow_exp import main
from fluxflow_exp.config import commands
from fluxflow_exp.config.override_words import is_field
from fluxflow_exp.config.overrides import values_of
from fluxflow_exp.errors import UserError
from tests.conftest import TOY, TOY_STEPS
from tests.helpers.children import command


def test_mistakes_are_listed_together_without_a_traceback_and_nothing_is_left(tmp_path: Path) -> None:
    done = command(tmp_path, "model.activaton=silu", "hardware=h20", "nonsense here")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("3 problems:\n")
    assert "did you mean 'model.activation'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_missing_captions_file_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    done = command(
        tmp_path, "hardware=cpu", "data=image_folder", "data.data_path=images", "data.captions_file=none.tsv"
    )
    assert done.returncode == 2
    assert done.stderr == "error: data.captions_file: there is no file none.tsv\n"
    assert not (tmp_path / "outputs").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_card_that_is_not_there(tmp_path: Path) -> None:
    done = command(tmp_path, "hardware=h200")
    assert done.returncode == 2
    assert done.stderr.startswith("error: hardware=h200 needs a CUDA GPU and this machine shows none.")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_plan_for_a_card_that_is_not_there_is_one_with_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["hardware=h200", "hardware.devices=2", "data.n_images=64", f"output_root={tmp_path / 'out'}"]
    values = values_of([*words, "hardware.cuda_graphs=false"])
    main.train({**values, "validate": True})
    said = capsys.readouterr().out
    assert "machine: 2 x H200 (not this machine)" in said
    assert "  note: hardware=h200 needs a CUDA GPU and this machine shows none." in said
    with pytest.raises(UserError, match="needs a CUDA GPU"):
        main.train(values)
    with pytest.raises(UserError, match=r"hardware\.precision is auto, fp32, bf16 or fp16, not 'fp8'"):
        main.train(values_of([*words, "hardware.precision=fp8", "validate=true"]))
    assert list(tmp_path.iterdir()) == []


def test_validate_prints_the_plan_and_leaves_nothing(tmp_path: Path) -> None:
    done = command(tmp_path, "validate=true", "hardware=cpu", "hardware.micro_batch.flow=8")
    assert done.returncode == 0, done.stderr
    for expected in (
        "Step 3: flow: 3 epochs x 512 = 1536 updates of 32 images (4 micro-batches of 8)",
        "trains: flow_processor, text_encoder; uses frozen: compressor, expander",
        "losses: reconstruction, kl, adversarial",
        "optimizers: vae AdamW lr 0.002 (cosine), discriminator AdamW",
        "compressor 217 k",
    ):
        assert expected in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_configuration_can_be_printed(tmp_path: Path) -> None:
    done = command(tmp_path, "--cfg", "job")
    assert done.returncode == 0
    assert "n_epochs:" in done.stdout


def test_a_sweep_gives_each_job_a_folder(tmp_path: Path) -> None:
    short = [f"stage.steps.{step}.max_updates=1" for step in ("vae", "vae_gan")]
    done = command(tmp_path, "seed=0,1", "-m", *TOY, *TOY_STEPS[:4], *short, "~stage.steps.flow")
    assert done.returncode == 0, done.stderr
    folders = sorted(p.name for p in (tmp_path / "outputs" / "quickstart").iterdir() if p.is_dir())
    assert len(folders) == 2
    assert all((tmp_path / "outputs" / "quickstart" / f / "summary.json").exists() for f in folders)
    config = yaml.safe_load((tmp_path / "outputs" / "quickstart" / folders[0] / "config.yaml").read_text())
    assert config["choices"]["optimizer"] == "adamw"
    assert config["choices"]["model/text_encoder"] == "byte_tiny"
    assert not [group for group in config["choices"] if group.startswith("hydra")]


def test_ctrl_c_saves_and_prints_the_command_that_continues(tmp_path: Path) -> None:
    overrides = ["stage=vae", *TOY, "stage.steps.vae.batch_size=8", "stage.steps.vae.n_epochs=5000"]
    child = subprocess.Popen(
        [sys.executable, "-m", "fluxflow_exp", *overrides], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout
    for line in child.stdout:
        if "Batch" in line:
            break
    child.send_signal(signal.SIGINT)
    said = child.communicate(timeout=60)[0]
    assert child.returncode == 128 + signal.SIGINT
    assert "Stopped by SIGINT" in said
    assert f"python -m fluxflow_exp stage=vae {TOY[0]}" in said
    assert list((tmp_path / "outputs" / "vae" / "checkpoints").glob("*.pt"))


def interrupted(folder: Path, patch: str, *words: str) -> subprocess.CompletedProcess[str]:
    """The command where `patch` has changed something in it."""
    script = (
        f"import sys\nfrom fluxflow_exp import main\n{patch}\nsys.argv = {['fluxflow-train', *words]!r}\nmain.cli()\n"
    )
    return subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False)


# A second Ctrl-C as the update that is given begins.
AT = """
from fluxflow_exp.trainers.base import Trainer
update = Trainer.update
def stopping(trainer, batch):
    if trainer.update_index == {}:
        raise KeyboardInterrupt
    update(trainer, batch)
Trainer.update = stopping
"""


@pytest.mark.parametrize(
    ("update", "more", "said"),
    [
        (0, [], "at once, before the first save. The same command begins again"),
        (4, ["resume=fresh"], "at once. The same command without resume=fresh continues from the last save"),
    ],
)
def test_a_second_interrupt_ends_in_one_line_about_what_is_saved(
    tmp_path: Path, update: int, more: list[str], said: str
) -> None:
    words = ["stage=vae", *TOY, "stage.steps.vae.batch_size=8"]  # a save each third update
    done = interrupted(tmp_path, AT.format(update), *words, *more)
    assert (done.returncode, done.stderr) == (130, f"error: stopped {said}\n")


def test_an_interrupt_before_a_run_is_there_speaks_of_no_save(tmp_path: Path) -> None:
    patch = "def train(*_, **__): raise KeyboardInterrupt\nmain.train = train"
    done = interrupted(tmp_path, patch, "hardware=cpu")
    assert (done.returncode, done.stderr) == (130, "error: stopped before anything began\n")
    done = interrupted(tmp_path, patch, "-m", "hardware=cpu", "seed=0,1", "name=both")
    assert done.returncode == 130
    told = r"error: stopped at once, before seed=0-\w+ began\. The same command goes on with the sweep\n"
    assert re.fullmatch(told, done.stderr)


def test_help_ends_with_the_further_commands_and_a_commands_name_is_answered(tmp_path: Path) -> None:
    done = command(tmp_path, "--help")
    assert done.returncode == 0
    assert done.stdout.rstrip().endswith(commands.listed())
    groups = re.findall(r"^([\w/]+): \w", done.stdout, re.MULTILINE)
    assert "model/autoencoder" in groups
    assert [each for each in groups if each != "loss" and not is_field(each.split("/")[0])] == []
    done = command(tmp_path, "status", "outputs")
    assert (done.returncode, done.stdout) == (2, "")
    assert "  python -m fluxflow_exp.status outputs\n" in done.stderr


def test_an_interrupt_before_anything_began_ends_in_one_line(tmp_path: Path) -> None:
    patch = "def problems(*_, **__): raise KeyboardInterrupt\nmain._problems = problems"
    done = interrupted(tmp_path, patch, "hardware=cpu")
    assert (done.returncode, done.stderr) == (130, "error: stopped before anything began\n")
