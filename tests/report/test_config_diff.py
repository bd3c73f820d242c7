"""What differs from the parent."""

from pathlib import Path

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from fluxflow_exp.config.compose import conf_dir
from fluxflow_exp.report import config_diff
from fluxflow_exp.run.folder import RunFolder
from tests.conftest import toy


def test_a_stage_without_overrides_differs_in_nothing(tmp_path: Path) -> None:
    aside = {"name": "other", "output_root": str(tmp_path), "choices": {"data": "shapes"}}
    found = config_diff.find({**config_diff.shipped("vae"), **aside})
    assert (found.name, found.differences, found.note) == ("the shipped defaults of stage=vae", [], None)


def test_hydra_keeps_the_job_that_is_under_way() -> None:
    config_diff.shipped.cache_clear()
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        under_way = GlobalHydra.instance().hydra
        config_diff.shipped("vae")
        assert GlobalHydra.instance().hydra is under_way
    assert not GlobalHydra.instance().is_initialized()


def test_differences_are_listed_key_by_key(tmp_path: Path) -> None:
    values = toy(tmp_path, "model.activation=silu", stage="vae")
    found = {key: (there, here) for key, there, here in config_diff.find(values).differences}
    assert found["model.activation"] == ("bezier", "silu")
    assert found["data.n_validation"] == (config_diff.ABSENT, 8)
    assert "seed" not in found


def test_the_parent_is_the_run_that_gave_the_weights(tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "first")
    values = toy(tmp_path, stage="vae")
    first.create(values, {})
    for given in (first.path, first.weights / "vae.safetensors"):
        step = {**values["stage"]["steps"]["vae"], "init_from": str(given)}
        mine = {**values, "seed": 7, "stage": {**values["stage"], "steps": {"vae": step}}}
        found = config_diff.find(mine)
        assert str(first.path) in found.name
        assert found.differences == [("seed", 0, 7), ("stage.steps.vae.init_from", None, str(given))]


def test_a_parent_that_is_gone_or_a_stage_that_is_not_shipped_is_said(tmp_path: Path) -> None:
    values = config_diff.shipped("vae")
    step = {**values["stage"]["steps"]["vae"], "init_from": "/gone/vae.safetensors"}
    found = config_diff.find({**values, "stage": {**values["stage"], "name": "mine", "steps": {"vae": step}}})
    assert found.name == "the shipped defaults"
    assert found.note == (
        "it started from /gone/vae.safetensors, which is not in a run folder that can be read here; "
        "there is no shipped stage 'mine'"
    )
