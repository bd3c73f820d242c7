"""Which number is drawn where, and how few points say the same."""

from typing import Any

from fluxflow_exp.report.panels import BALANCE, HELD_OUT, POINTS, RATES, Track, marks, overlaid, panels
from fluxflow_exp.trainers.health_check import Checkup


def row(
    update: int, kind: str = "train", rates: dict[str, float] | None = None, **metrics: float | None
) -> dict[str, Any]:
    return {
        "global_step": update, "kind": kind, "metrics": metrics, "learning_rates": rates or {}, "extras": {}, "epoch": 1
    }  # fmt: skip


def test_steps_are_laid_one_after_another() -> None:
    track = Track(
        {"vae": [row(10, vae=1.0), row(20, vae=0.5)], "gan": [row(10, vae=0.4, d=2.0), row(30, vae=0.3, d=1.0)]}
    )
    assert (track.offsets, track.updates) == ({"vae": 0, "gan": 20}, 50)
    assert marks(track) == [{"x": 0, "label": "vae"}, {"x": 20, "label": "gan"}]
    loss, discriminator = panels(track)
    assert loss["series"] == [{"name": "vae", "x": [10, 20, 30, 50], "y": [1.0, 0.5, 0.4, 0.3]}]
    assert (discriminator["section"], discriminator["from"], discriminator["to"]) == (BALANCE, 20, 50)


def test_averaged_and_raw_weights_share_a_panel_and_runs_do_not_mix_them() -> None:
    rows = [
        row(8 * n, kind, val_psnr=value + n)
        for n in (1, 2)
        for kind, value in (("held_out", 20.0), ("held_out_raw", 19.0))
    ]
    (panel,) = panels(Track({"vae": rows}))
    assert panel["section"] == HELD_OUT
    assert [line["name"] for line in panel["series"]] == ["averaged weights", "raw weights"]
    both = overlaid({"a": Track({"vae": rows}), "b": Track({"vae": rows})})
    assert [(each["title"], [line["name"] for line in each["series"]]) for each in both] == [
        ("PSNR", ["a", "b"]),
        ("PSNR: raw weights", ["a", "b"]),
    ]


def test_the_best_point_of_a_step_is_marked_where_its_metric_is_drawn() -> None:
    rows = [row(8 * n, "held_out", val_flow=abs(n - 2) + 0.5, val_psnr=20.0) for n in (1, 2, 3)]
    track = Track({"vae": [row(100, l1=1.0)], "flow": [*rows, row(24, flow=1.0)]})
    found = panels(track, {"flow": {"update": 16, "metric": "val_flow", "value": 0.5}})
    (flow,) = (each for each in found if each["best"])
    assert (flow["section"], flow["best"]) == (HELD_OUT, [{"x": 116, "y": 0.5}])
    (line,) = flow["series"]
    assert line["y"][line["x"].index(116)] == min(line["y"]) == 0.5


def test_rates_and_norms_have_a_line_a_player() -> None:
    rows = [row(n, rates={"vae": 0.1, "discriminator": 0.2}, vae_norm=1.0, discriminator_norm=3.0) for n in (1, 2)]
    found = {panel["title"]: panel for panel in panels(Track({"gan": rows}))}
    assert {panel["section"] for panel in found.values()} == {RATES}
    assert all([line["name"] for line in panel["series"]] == ["vae", "discriminator"] for panel in found.values())


def test_a_value_that_was_not_finite_is_a_gap_and_what_was_logged_once_a_point() -> None:
    gap, point = panels(Track({"vae": [row(1, kl=None, once=1.0), row(2, kl=2.0)]}))
    assert gap["series"][0]["y"] == [None, 2.0]
    assert point["series"][0] == {"name": "once", "x": [1], "y": [1.0]}


def test_many_rows_become_means_of_neighbours_and_the_last_row() -> None:
    (panel,) = panels(Track({"vae": [row(n, l1=float(n % 2)) for n in range(1, 4 * POINTS + 1)]}))
    line = panel["series"][0]
    assert len(line["x"]) == POINTS + 1
    assert set(line["y"][:-2]) == {0.5}
    assert (line["x"][-1], line["y"][-1]) == (4 * POINTS, 0.0)


def test_values_over_decades_have_a_logarithmic_axis() -> None:
    wide, negative = panels(Track({"vae": [row(1, a=1.0, b=-1.0), row(2, a=100.0, b=100.0)]}))
    assert (wide["log"], negative["log"]) == (True, False)


def test_the_ratio_of_gradients_is_titled_in_the_order_in_which_it_is_taken() -> None:
    checkup = Checkup.__new__(Checkup)
    checkup.recent = [row(update, discriminator_norm=4.0, vae_norm=2.0) for update in (1, 2)]
    found = checkup._of_rows(0)
    assert found == {"gradient_ratio": 2.0}
    (panel,) = panels(Track({"vae_gan": [row(update, "health", **found) for update in (1, 2)]}))
    assert panel["title"].startswith("Gradient norms, discriminator over autoencoder")
