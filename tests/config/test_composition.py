"""What is composed with kept files is what Hydra composes, until a file changes."""

import shutil
from pathlib import Path

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from fluxflow_exp.config import composition
from fluxflow_exp.config.compose import conf_dir
from fluxflow_exp.config.composition import composed_of
from fluxflow_exp.config.override_words import why

WORDS = [
    ["seed=3", "model=compact", "model.activation=silu", "data.img_size=${seed}", "+x=[1,{a: 2}]"],
    ["~optimizer.betas", "samples={count: 1}", "optimizer={lr: 1}", "optimizer.lr=2", "optimizer=adam"],
    ["stage=vae", "optimizer@stage.steps.vae.optimizers.vae=rmsprop", "~tracking=wandb"],
    ["model=no_such"],
    ["++model=tiny"],
    ["no@such=3"],
    ["seed=1,2"],
    ["~seed=99"],
    ["="],
    ["a b"],
]  # fmt: skip


def outcome(words: list[str]) -> object:
    try:
        return OmegaConf.to_container(composed_of(words), resolve=False)
    except HydraException as error:
        return type(error), why(error)


def test_it_is_what_hydra_composes(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [outcome(words) for words in WORDS]
    monkeypatch.setattr(composition, "_is_hydras", lambda override: True)
    assert kept == [outcome(words) for words in WORDS]
    assert [isinstance(each, dict) for each in kept] == [True] * 3 + [False] * 7


def test_flags_are_hydras_and_nothing_is_shared() -> None:
    first = composed_of([])
    assert OmegaConf.is_struct(first)
    first.model.activation = "relu"
    assert composed_of([]).model.activation != "relu"


def test_a_file_that_changes_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Path(shutil.copytree(conf_dir(), tmp_path / "conf"))
    monkeypatch.setattr(composition, "conf_dir", lambda: str(here))
    (here / "model").rename(tmp_path / "model")
    (here / "model").symlink_to(tmp_path / "model")  # files of a folder that is a link as well
    before = composed_of(["model=tiny"]).model.activation
    file = here / "model" / "tiny.yaml"
    assert f"activation: {before}\n" in file.read_text()
    file.write_text(file.read_text().replace(f"activation: {before}\n", "activation: relu\n"))
    assert before != composed_of(["model=tiny"]).model.activation == "relu"


def test_the_files_of_a_choice_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    composed_of(["stage=vae", "seed=1"])
    monkeypatch.setattr(composition, "_by_hydra", None)
    assert composed_of(["seed=2", "stage=vae"]).seed == 2
