"""Hints: the nearest name, and how many names more."""

from fluxflow_exp.errors import few, suggest_key


def test_the_nearest_key_may_stand_elsewhere():
    assert "'model.vae_dim'" in suggest_key("vae_dim", ["seed", "model.vae_dim"])
    assert suggest_key("zzz", ["seed"]) == ""
    steps = ["stage.steps.vae.batch_size", "stage.steps.flow.batch_size"]
    assert "'stage.steps.flow.batch_size'" in suggest_key("stage.steps.flow.dataloader.batch_size", steps)


def test_of_many_names_the_first_are_told_and_how_many_more():
    assert few(["a", "b"], 2) == "a, b"
    assert few(["a", "b", "c", "d"], 2, joint="; ") == "a; b and 2 more"
    assert few([], 2) == ""
