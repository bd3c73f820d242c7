"""Axes of the pictures in graph/: what can be read off them."""

from typing import Any

import pytest

from fluxflow_exp import plot
from fluxflow_exp.report import curves, figures
from fluxflow_exp.report.curves import Panel


def axes_of(panel: Panel) -> tuple[Any, Any]:
    """The axes of a panel on its own, drawn, and the canvas."""
    with figures.settings():
        figure, grid = plot._grid(1, 1)
        curves.draw(grid[0, 0], panel, {"vae": 0, "flow": 20})
        canvas = figures.canvas(figure)
        canvas.draw()
    return grid[0, 0], canvas


def labels(axes: Any) -> list[str]:
    """Labels of the ticks that are in the picture."""
    low, high = axes.get_ylim()
    ticks = zip(axes.yaxis.get_majorticklocs(), axes.yaxis.get_ticklabels(), strict=True)
    return [label.get_text() for place, label in ticks if low <= place <= high]


@pytest.mark.parametrize(
    "values",
    [
        [1.62, 1.55],
        [0.18, 0.43, 0.9],
        [-0.3, 0.02, 1.9],
        [1e-3, 1e-3],
        [0.0, 0.0],
        [1e-5, 2e-4],
        [0.013, 3.9],
        [0.015, 5.0],
        [0.02, 4e4],
        [-3.0, 500.0],
        [-0.27, 0.05, 0.06, 0.7, 5.3],
        [0.0, 0.0, 1e-3],
        [-0.001, 2e-5, 9000.0],
        [1.569012, 1.569013],
        [3e6, 3.1e6],
    ],
)
def test_every_axis_has_three_ticks_or_more_that_differ(values: list[float]) -> None:
    axes, _ = axes_of(Panel("loss", {"vae": ([float(i) for i in range(len(values))], values)}, ("vae",)))
    told = labels(axes)
    assert len(told) >= 3
    assert len(set(told)) == len(told)


def test_values_far_apart_have_a_logarithmic_axis_if_they_may() -> None:
    series = {"vae": ([0.0, 1.0], [0.01, 1.0])}
    far, plain = (axes_of(Panel("loss", series, ("vae",), log=log))[0] for log in (True, False))
    assert (far.get_yscale(), far.get_ylabel()) == ("log", "loss, log scale")
    assert (plain.get_yscale(), plain.get_ylabel()) == ("linear", "loss")
    below = {"vae": ([0.0, 1.0, 2.0], [0.05, 2.0, 0.1]), "g": ([0.0, 1.0], [-0.3, 0.4])}
    assert axes_of(Panel("loss", below, ("vae", "g")))[0].get_yscale() == "symlog"
    assert axes_of(Panel("loss", {**below, "vae": ([0.0], [0.3])}, ("vae", "g")))[0].get_yscale() == "linear"


@pytest.mark.parametrize("divergence", [[30.0, 33.0, 20.0], [0.01, 5.0, 30.0]])
def test_the_names_of_lines_with_two_scales_lie_on_no_line_and_no_tick(divergence: list[float]) -> None:
    updates = [0.0, 10.0, 30.0]
    series = {"kl": (updates, divergence), "kl_beta": (updates, [1e-3, 1e-3, 1e-3])}
    axes, canvas = axes_of(Panel("KL", series, ("kl",), right=("β", "kl_beta")))
    right = axes.figure.axes[1]
    legend = right.get_legend().get_window_extent()
    renderer = canvas.get_renderer()
    assert not any(legend.overlaps(label.get_window_extent(renderer)) for label in right.get_yticklabels())
    for each in (axes, right):
        line = each.get_lines()[0]
        heights = each.transData.transform(line.get_xydata())[:, 1]
        assert heights.max() < legend.y0
    assert max(label.get_window_extent(renderer).x1 for label in right.get_yticklabels()) < canvas.get_width_height()[0]


def test_nothing_of_a_panel_lies_in_its_neighbour() -> None:
    """A short run: β and learning rates are small, a learning rate does not move, and a step begins at the right."""
    updates = [0.0, 20.0]
    marks = {"vae": 0, "a_step_of_a_long_name": 18, "flow": 20}
    series = {
        "kl": (updates, [-1.569e-5, -1.568e-5]),
        "kl_beta": (updates, [1e-5, 1.15e-4]),
        "rate": (updates, [2e-5] * 2),
    }
    panels = [Panel("KL (nats a position)", series, ("kl",), right=("β", "kl_beta")), Panel("rate", series, ("rate",))]
    with figures.settings():
        figure, grid = plot._grid(2, 2)
        for axes, panel in zip(grid.flat, [*panels, *reversed(panels)], strict=True):
            curves.draw(axes, panel, marks)
        canvas = figures.canvas(figure)
        canvas.draw()
        width, height = (size / 2 for size in canvas.get_width_height())
        for axes in figure.axes:
            box, centre = axes.get_tightbbox(canvas.get_renderer()), axes.get_window_extent().get_points().mean(0)
            left, bottom = centre[0] // width * width, centre[1] // height * height
            assert left <= box.x0 < box.x1 <= left + width
            assert bottom <= box.y0 < box.y1 <= bottom + height


def test_every_step_is_named_though_the_one_before_is_short() -> None:
    series = {"flow": ([0.0, 1000.0], [1.0, 2.0])}
    with figures.settings():
        figure, grid = plot._grid(1, 1)
        curves.draw(grid[0, 0], Panel("loss", series, ("flow",)), {"vae": 0, "vae_gan": 10, "flow": 20, "more": 1000})
        renderer = figures.canvas(figure).get_renderer()
        boxes = {text.get_text().strip(): text.get_window_extent(renderer) for text in grid[0, 0].texts}
    assert list(boxes) == ["vae", "vae_gan", "flow", "more"]
    assert not any(a.overlaps(b) for name, a in boxes.items() for other, b in boxes.items() if name < other)


def test_a_step_is_named_where_it_begins_and_lines_that_coincide_are_both_seen() -> None:
    series = {"flow": ([10.0, 30.0], [1.0, 2.0]), "text_encoder": ([10.0, 30.0], [1.0, 2.0])}
    axes, _ = axes_of(Panel("rate", series, ("flow", "text_encoder")))
    assert [text.get_text().strip() for text in axes.texts] == ["vae", "flow"]
    assert [line.get_linestyle() for line in axes.get_lines()[:2]] == ["-", "--"]
