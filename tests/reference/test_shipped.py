"""The shipped curves: small, readable, and of configurations that are still here."""

from fluxflow_exp.config.compose import resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.reference import alike, curves


def test_they_can_be_read_and_are_small():
    assert all(each.steps and len(each.seeds) >= curves.FEWEST_RUNS for each in curves.asked("shipped"))
    assert all(path.stat().st_size < 100_000 for path in curves.SHIPPED.glob("*.json"))
    assert curves.asked("off") == []


def test_the_quickstart_is_like_its_own():
    """Where this fails, the quickstart has changed: docs/how-to/on-track.md says how its curves are made anew."""
    values = resolve(compose_config(["tracking=off"]))
    lengths = {"vae": (64, 256, 768), "vae_gan": (64, 256, 256), "flow": (32, 512, 1536)}
    planned = {
        step: {"batch_size": batch, "updates_per_epoch": epoch, "updates": updates}
        for step, (batch, epoch, updates) in lengths.items()
    }
    (reference,) = [each for each in curves.asked("shipped") if each.stage == "quickstart"]
    assert list(reference.steps) == list(lengths)
    for step, theirs in reference.steps.items():
        assert alike.unlike(alike.facts(values, {"planned": planned, "steps": {}}, step), theirs) == []
