"""Numbers, durations and digests as a reader wants them; what is not known is a dash. Filters of templates."""

import json
from datetime import datetime
from typing import Any

from markupsafe import Markup

UNKNOWN = "-"


def number(value: float | None) -> str:
    """Four significant digits."""
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def quantity(value: float | None, unit: str | None) -> str:
    """A number with its unit; a share in per cent."""
    if unit == "share" and value is not None:
        return f"{100 * value:.1f} %"
    return f"{number(value)} {unit}" if unit and value is not None else number(value)


def reading(value: float | None, unit: str | None) -> str:
    """A number of a curve whose unit stands beside its title; a share in per cent."""
    return f"{number(100 * value)} %" if unit == "share" and value is not None else number(value)


def count(value: int) -> str:
    return f"{value / 1e6:.2f} M" if value >= 1_000_000 else f"{value:,}"


def hours(value: float) -> str:
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def shown(value: Any) -> str:
    """A value of a configuration."""
    if value is None:
        return UNKNOWN
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def moment(time: str) -> str:
    """An ISO 8601 time to the second."""
    return datetime.fromisoformat(time).strftime("%Y-%m-%d %H:%M:%S %Z")


def code(value: str) -> Markup:
    return Markup("<code>{}</code>").format(value)


def digest(value: str | None) -> str:
    """The first 16 digits; all of them on asking."""
    return UNKNOWN if value is None else Markup('<code title="{}">{}</code>').format(value, value[:16])
