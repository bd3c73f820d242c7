"""The widths of a model that may change, and the model that has others."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fluxflow_exp.errors import UserError
from fluxflow_exp.match.search import Space, Widths
from fluxflow_exp.models import weights

FINER = (8, 4, 2, 1)  # channels: multiples of 8 are what matrix units take
TIMED = (16,)  # where time counts: with 72 and 216 an update took 1.5 times as long as with 64 and 240 (one H200)
DEPTHS = ("blocks", "depth")


@dataclass(frozen=True)
class Model:
    """A resolved `model` section, of which `parts` are matched."""

    nodes: dict[str, Any]
    parts: list[str]

    def space(self, finer: Sequence[int] = FINER) -> Space:
        """The widths of all parts as one vector, in steps of `finer` channels."""
        from fluxflow_exp.models.compact_vae import shortcuts

        shared = self._lists()
        start: list[int] = [width for widths, _ in shared for width in widths]
        ends = [len(widths) for widths, _ in shared]
        steps = [[step] * len(start) for step in finer]
        for part in self._single():
            node = self.nodes[part]
            start += [node["width"], _hidden(node)]
            for row, step in zip(steps, finer, strict=True):
                row += [math.lcm(4 * node["heads"], step), step]  # pairs of angles, for two axes, in each head

        def pattern(widths: Sequence[int]) -> list[tuple[bool, ...]]:
            found, first = [], 0
            for count in ends:
                found.append(shortcuts(list(widths[first : first + count])))
                first += count
            return found

        wanted = pattern(start)
        return Space(tuple(start), tuple(map(tuple, steps)), lambda widths: pattern(widths) == wanted)

    def changes(self, widths: Widths) -> dict[str, Any]:
        """Key of the configuration → value that differs from the model's own."""
        made: dict[str, Any] = {}
        left = list(widths)
        for now, parts in self._lists():
            taken, left = left[: len(now)], left[len(now) :]
            made |= {f"model.{part}.widths": list(taken) for part in parts if taken != self.nodes[part]["widths"]}
        for part in self._single():
            (width, hidden), left = left[:2], left[2:]
            node = self.nodes[part]
            if width != node["width"]:
                made[f"model.{part}.width"] = width
            if hidden != int(width * _ratio(node)):
                # Between two whole numbers, so that rounding does not lose one.
                made[f"model.{part}.mlp_ratio"] = round((hidden + 0.25) / width, 5)
        return made

    def changed(self, changes: dict[str, Any]) -> "Model":
        nodes = copy.deepcopy(self.nodes)
        for key, value in changes.items():
            _, part, name = key.split(".")
            nodes[part][name] = value
        return Model(nodes, self.parts)

    def deeper(self, blocks: int) -> dict[str, Any]:
        """The changes that add `blocks` to the depth of each part; {} where one would have too few left."""
        depths = {
            f"model.{part}.{key}": self.nodes[part][key] + blocks
            for part in self.parts
            for key in DEPTHS
            if key in self.nodes[part]
        }
        if min(depths.values(), default=0) <= 0:
            return {}
        try:
            for part in self.parts:
                weights.outline(self.changed(depths).nodes[part])
        except ValueError:  # an option needs more blocks
            return {}
        return depths

    def _lists(self) -> list[tuple[list[int], list[str]]]:
        """Lists of widths, one a stage, with the parts that share them."""
        found: list[tuple[list[int], list[str]]] = []
        for part in self.parts:
            widths = self.nodes[part].get("widths")
            if widths is None:
                continue
            same = [parts for other, parts in found if other == widths]
            if same:
                same[0].append(part)
            else:
                found.append((list(widths), [part]))
        return found

    def _single(self) -> list[str]:
        """Parts of one width."""
        return [part for part in self.parts if "width" in self.nodes[part]]


def model_of(values: dict[str, Any], parts: list[str]) -> Model:
    """The model of a resolved configuration; of `parts` those that have an activation are matched.

    UserError: there are none, or they have no widths.
    """
    nodes = values["model"]
    matched = [part for part in parts if "activation" in nodes[part]]
    if not matched:
        raise UserError(f"the step trains {', '.join(parts)}: nothing that has an activation")
    without = [part for part in matched if "widths" not in nodes[part] and "width" not in nodes[part]]
    if without:
        raise UserError(
            f"model={nodes['name']}: {', '.join(without)} {'have' if len(without) > 1 else 'has'} no width of "
            f"{'their' if len(without) > 1 else 'its'} own to change. model=compact and model=tiny have"
        )
    return Model(nodes, matched)


def _ratio(node: dict[str, Any]) -> float:
    return float(node.get("mlp_ratio", 4.0))


def _hidden(node: dict[str, Any]) -> int:
    return int(node["width"] * _ratio(node))
