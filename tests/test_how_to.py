"""The complete files and commands of docs/how-to/your-own-*.md: composed, checked, and trained at toy size."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fluxflow_exp import pipeline
from fluxflow_exp.config import published
from fluxflow_exp.config.compose import instantiate, resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.errors import UserError
from fluxflow_exp.generate.command import parser
from fluxflow_exp.generate.drawing import generate
from fluxflow_exp.preflight import check
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.metric_log import read_rows
from tests.conftest import TOY

PAGES = Path(__file__).parents[1] / "docs" / "how-to"
SHORT = [f"stage.steps.vae.{key}" for key in ("max_updates=2", "batch_size=8")]


class Page:
    """A page's files, written to a folder that is worked in, and its first command."""

    def __init__(self, name: str) -> None:
        text = (PAGES / f"your-own-{name}.md").read_text(encoding="utf-8")
        self.files = dict(re.findall(r"`([\w/.]+)`, the whole file:\n\n```\w+\n(.*?)```", text, re.DOTALL))
        for file, content in self.files.items():
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            Path(file).write_text(content, encoding="utf-8")
        command = re.findall(r"```bash\npython -m fluxflow_exp --config-dir mine (.*?)(?: +#.*)?\n", text)[0]
        self.overrides = shlex.split(command)

    def composed(self, *overrides: str) -> dict[str, Any]:
        given = [*self.overrides, "hardware=cpu", *overrides, f"output_root={Path().resolve()}"]
        return resolve(compose_config(given, config_dir="mine"))

    def trained(self, *overrides: str) -> RunFolder:
        values = self.composed(*overrides)
        assert check.problems(values) == []
        pipeline.run(values)
        return RunFolder(Path(str(values["name"])))


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(published, "_own", set())


def toy_without(*groups: str) -> list[str]:
    return [word for word in TOY if not word.lstrip("+").startswith(groups)]


def test_what_the_stages_say_is_what_is_trained() -> None:
    page = Page("stage")
    (sharp,) = page.composed("stage=sharp", "optimizer.lr=9", "validate=false")["stage"]["steps"].values()
    assert sharp["optimizers"]["vae"]["_target_"] == "torch.optim.Adam"
    assert sharp["optimizers"]["vae"]["lr"] == 0.001, "not the run's"
    assert sharp["schedulers"]["vae"] == {
        "_target_": "fluxflow_exp.schedules.linear", "_partial_": True, "warmup": 100, "floor": 0.1
    }  # fmt: skip
    assert (sharp["trainer"]["frequency"]["low"], sharp["trainer"]["frequency"]["high"]) == (1.0, 1.0)
    gallery = page.composed("stage=gallery", "optimizer.lr=9")["stage"]["steps"]
    assert list(gallery) == ["vae", "vae_gan", "flow", "polish"]
    assert gallery["vae_gan"]["trainer"]["adversarial"]["weight"] == 0.05
    assert (gallery["flow"]["optimizers"]["flow"]["lr"], gallery["polish"]["optimizers"]["flow"]["lr"]) == (9, 0.0001)
    for stage in ("sharp", "gallery"):
        assert check.problems(page.composed(f"stage={stage}")) == []


def test_the_pipeline_of_the_stage_trains_to_its_end() -> None:
    short = [f"stage.steps.{step}.{key}" for step in ("vae", "vae_gan", "flow", "polish")
             for key in ("max_updates=1", "batch_size=8")]  # fmt: skip
    run = Page("stage").trained("stage=gallery", "validate=false", *TOY, *short)
    assert (run.weights / "polish.safetensors").is_file()
    assert run.summary.is_file()


def test_a_loss_is_two_files_and_is_trained() -> None:
    page = Page("loss")
    assert set(page.files) == {"my_losses.py", "mine/loss/edges.yaml"}
    run = page.trained(*TOY, *SHORT, "log_every=1", "stage.steps.vae.transition_on={metric: edges, below: 0.01}")
    assert [row["metrics"]["edges"] > 0 for row in read_rows(run.metrics("vae")) if row["kind"] == "train"] == [
        True
    ] * 2
    published._own.clear()
    assert not published.is_known("my_losses.Edges"), "a file alone may not name it"


def test_a_data_set_is_trained_on() -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 16, 16), np.uint8)
    np.savez("pictures.npz", images=images, captions=np.array([f"picture {i}" for i in range(40)]))
    run = Page("data-set").trained(*toy_without("data.n_"), *SHORT, "data.n_validation=8")
    assert "val_psnr" in [row["metrics"] for row in read_rows(run.metrics("vae")) if row["kind"] == "held_out"][-1]


def test_a_data_set_whose_parts_do_not_fit_or_that_cannot_be_read_says_so() -> None:
    images = np.zeros((4, 3, 16, 16), np.uint8)
    page = Page("data-set")
    np.savez("pictures.npz", images=images, captions=np.array(["a"] * 3))
    values = page.composed(*toy_without("data.n_"), *SHORT, "data.n_validation=2")
    with pytest.raises(UserError, match=r"pictures.npz: 4 pictures and 3 captions"):
        pipeline.run(values)
    np.savez("pictures.npz", images=images, captions=np.array(["a"] * 4))
    data = instantiate(values["data"])
    for place, limited in (("data.max_bad_fraction=0.0", data), ("the max_bad_fraction=0.0 of Fixed", Fixed(data))):
        folder = RunFolder(Path("run of") / type(limited).__name__)
        folder.path.mkdir(parents=True)
        with pytest.raises(UserError, match=f"1 of 4 samples cannot be read, more than {place}; "):
            folder.report_bad([("x", "broken")], limited, print)


class Fixed:
    """A data set whose limit is no argument."""

    max_bad_fraction = 0.0

    def __init__(self, data: Any) -> None:
        self.train, self.validation, self.bad = data.train, data.validation, data.bad


def test_a_model_is_trained_and_generates_where_it_is_trusted(capsys: pytest.CaptureFixture[str]) -> None:
    page = Page("model")
    short = [f"stage.steps.{step}.{key}" for step in ("vae", "flow") for key in ("max_updates=1", "batch_size=8")]
    run = page.trained(*toy_without("model.compressor"), *short, "~stage.steps.vae_gan")
    assert "python -m fluxflow_exp.generate --trust my_model.Expander --model_ch" in capsys.readouterr().out
    Path("prompts.txt").write_text("a red star on a blue ground\n", encoding="utf-8")
    words = ["--model_checkpoint", str(run.weights / "final.safetensors"), "--text_prompts_path", "prompts.txt"]
    words += ["--output_path", "out", "--steps", "1"]
    published._own.clear()
    with pytest.raises(ValueError, match=r"--trust my_model\.Expander"):
        generate(parser().parse_args(words))
    generate(parser().parse_args([*words, "--trust", "my_model.Expander"]))
    assert list(Path("out").iterdir())


def test_the_page_of_language_models_makes_one_and_reads_captions_by_it(capsys: pytest.CaptureFixture[str]) -> None:
    text = (PAGES / "language-model-captions.md").read_text(encoding="utf-8")
    (made,) = re.findall(r"```bash\npython - <<'END'\n(.*?)END\n```", text, re.DOTALL)
    exec(made, {})
    command = re.findall(r"\npython -m fluxflow_exp (.*?[^\\])\n", text, re.DOTALL)[0].replace("\\\n", " ")
    values = resolve(compose_config([*shlex.split(command), "hardware=cpu", "validate=true"]))
    assert check.problems(values) == []
    pipeline.run(values)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("    text: ")]
    assert line in text


def test_the_commands_of_fine_tuning_compose() -> None:
    text = (PAGES / "fine-tuning.md").read_text(encoding="utf-8").replace("\\\n", "")
    commands = re.findall(r"^python -m fluxflow_exp (.*)$", text, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        config = compose_config(shlex.split(command))
        assert (config.model.name, config.init_from) == ("published", "outputs/quickstart")
    keys = [word for cell in re.findall(r"^\| `(.*?)` \|", text, re.MULTILINE) for word in shlex.split(cell)]
    assert len([word for word in keys if "=" in word]) == 8
    compose_config(["stage=finetune_lora", *(word for word in keys if "=" in word)])
