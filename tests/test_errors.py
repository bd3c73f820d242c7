"""Hints: the nearest name."""

from fluxflow_exp.errors import suggest_key


def test_the_nearest_key_may_stand_elsewhere():
    assert "'model.vae_dim'" in suggest_key("vae_dim", ["seed", "model.vae_dim"])
    assert suggest_key("zzz", ["seed"]) == ""
