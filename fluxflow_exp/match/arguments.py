"""The arguments of `python -m fluxflow_exp.match`."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from fluxflow_exp.config.override_keys import merged

AXES = ("params", "flops", "memory", "time")


@dataclass(frozen=True)
class Asked:
    """The match that is asked for."""

    overrides: list[str]
    like: list[str]
    axis: str
    step: str | None
    config_dir: str | None
    measured: bool
    updates: int
    whole: list[str] | None = None  # all overrides of the reference, where they are not these with `like`

    @property
    def reference(self) -> list[str]:
        """The reference's overrides: those shared by both, with `like` in place of what it names."""
        if self.whole is not None:
            return self.whole
        return merged(self.overrides, self.like)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m fluxflow_exp.match",
        description="Change a model's widths until it equals another one on one axis, print all axes of both, and "
        "write the model as a file for --config-dir. No GPU is needed, but for --measured.",
        epilog="Exit code: 0 matched, 1 the nearest is farther off than 1 % (params) or 2 %, 2 the configuration is "
        "wrong. Example: python -m fluxflow_exp.match model=compact model.activation=silu "
        "--like model.activation=bezier --axis params stage=vae data.img_size=128 hardware=h200",
    )
    found.add_argument("overrides", nargs="*", help="of the model that is changed, shared by the reference")
    found.add_argument(
        "--like", action="append", required=True, metavar="KEY=VALUE",
        help="what the reference has instead; may be repeated",
    )  # fmt: skip
    found.add_argument("--axis", required=True, choices=AXES, help="what is to be equal")
    found.add_argument("--step", metavar="NAME", help="step of the stage, where there are several")
    found.add_argument("--measured", action="store_true", help="with --axis time: timed on this machine")
    found.add_argument("--updates", type=int, help="that --measured times of each model (default 50)")
    found.add_argument("--out", type=Path, default=Path("matched"), metavar="FOLDER", help="default: matched/")
    found.add_argument("--name", help="of the model; default: MODEL_ACTIVATION_AXIS")
    found.add_argument("--config-dir", help="the folder of your own groups")
    found.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there, too")
    return found
