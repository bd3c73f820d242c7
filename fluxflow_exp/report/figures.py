"""matplotlib with this package's settings: neither the environment's backend nor a matplotlibrc changes a picture."""

import os

os.environ["MPLBACKEND"] = "agg"  # matplotlib refuses to be imported where another is named that is not installed

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes as Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Figure
from matplotlib.ticker import FixedLocator as FixedLocator
from matplotlib.ticker import LogLocator as LogLocator
from matplotlib.ticker import NullLocator as NullLocator


@contextmanager
def settings() -> Iterator[None]:
    """Inside, figures are made and drawn as matplotlib does by itself; a `$` in a name is a dollar sign."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams["text.parse_math"] = False
        yield


def canvas(figure: Figure) -> Any:
    """Return the canvas that `figure` is drawn on; matplotlib has no types here."""
    return FigureCanvasAgg(figure)


def label(name: str) -> str:
    """`name` for a legend, which would leave out one that begins with an underscore."""
    return f" {name}" if name.startswith("_") else name
