"""What makes a run the same run."""

from fluxflow_exp.run.identity import identity_differences


def config(**changes):
    base = {
        "model": {"name": "tiny", "vae_dim": 4},
        "data": {"data_path": "/a", "img_size": 32},
        "stage": {"steps": {"vae": {"n_epochs": 2, "freeze": []}}},
        "optimizer": {"lr": 0.1},
        "scheduler": {},
        "seed": 0,
        "hardware": {"device": "cpu"},
        "log_every": 10,
    }
    return {**base, **changes}


def test_identity_is_model_data_stage_optimizer_scheduler_and_seed():
    assert identity_differences(config(), config()) == {}
    assert identity_differences(config(hardware={"device": "cuda"}, log_every=1), config()) == {}
    assert identity_differences(config(data={"data_path": "/moved", "img_size": 32}), config()) == {}
    assert identity_differences(config(seed=1, optimizer={"lr": 0.2}), config()) == {
        "seed": (0, 1),
        "optimizer.lr": (0.1, 0.2),
    }
    assert identity_differences(config(model={"name": "tiny"}), config()) == {"model.vae_dim": (4, "(absent)")}
