"""Which runs are similar enough that the curves of one say something about those of the other."""

from typing import Any

from fluxflow_exp.reference.curves import Facts, Reference, StepCurves
from fluxflow_exp.run.identity import ABSENT, ASIDE, flatten

FACTOR = 2.0  # at most between the numbers of training pictures, of an update's pictures, of earlier steps' pictures
SHAPES = "fluxflow_exp.data.shapes.Shapes"
# Of a step: what changes what its losses mean, or how they fall. Learning rates are not among it: they are told.
OF_STEP = ("trainer", "ema", "cfg_dropout_prob", "freeze", "unfreeze", "init_from", "data")
# What of a model is not there before a step has this player.
SINCE = {"discriminator": "discriminator", "flow_processor": "flow", "text_encoder": "flow", "text_dim": "flow"}
NAMES = ("model.learning_rate", "model.name")


def facts(values: dict[str, Any], record: dict[str, Any], step: str) -> Facts:
    """Facts of a step, from a run's frozen configuration and its record (run.json)."""
    steps = list(values["stage"]["steps"])
    earlier = steps[: steps.index(step)]
    planned, done = record["planned"], record["steps"]
    length = planned[step]

    def seen(name: str) -> int:
        updates = done[name]["updates"] if name in done else planned[name]["updates"]
        return int(updates * planned[name]["batch_size"])

    contents = (record.get("contents") or {}).get(step) or {}
    node = values["stage"]["steps"][step]
    rates = {player: each.get("lr") for player, each in node["optimizers"].items()}
    return Facts(
        alike=_alike(values, [*earlier, step]),
        settings={"learning rate": rates, "pictures an update": length["batch_size"]},
        batch_size=length["batch_size"],
        training_pictures=length["updates_per_epoch"] * length["batch_size"],
        earlier_pictures=sum(map(seen, earlier)),
        names=contents.get("names"),
    )


def unlike(mine: Facts, theirs: StepCurves) -> list[str]:
    """Why a run is not similar, a line each; none: it is."""
    found = [
        f"{key}: {mine.alike.get(key, ABSENT)} here, {theirs.alike.get(key, ABSENT)} there"
        for key in sorted({*mine.alike, *theirs.alike})
        if mine.alike.get(key, ABSENT) != theirs.alike.get(key, ABSENT)
    ]
    numbers = {
        "training pictures": (mine.training_pictures, theirs.training_pictures),
        "pictures an update": (mine.batch_size, theirs.batch_size),
        "pictures of earlier steps": (mine.earlier_pictures, theirs.earlier_pictures),
    }
    return found + [
        f"{what}: {here:,} here, {there:,} there (at most {FACTOR:g} times as many)"
        for what, (here, there) in numbers.items()
        if max(here, there) > FACTOR * min(here, there)
    ]


def nearest(mine: Facts, step: str, references: list[Reference]) -> Reference | None:
    """Return a similar one: that of the same data, else of the nearest number of pictures. None: there is none."""
    similar = [each for each in references if step in each.steps and not unlike(mine, each.steps[step])]

    def distance(each: Reference) -> tuple[bool, int]:
        curves = each.steps[step]
        return not same_data(mine, curves), abs(curves.training_pictures - mine.training_pictures)

    return min(similar, key=distance, default=None)


def same_data(mine: Facts, theirs: StepCurves) -> bool:
    return mine.names is not None and mine.names == theirs.names


def _alike(values: dict[str, Any], steps: list[str]) -> dict[str, Any]:
    """Dotted key → value; what is off is not there, so that a key of a later version, off, makes no difference."""
    sizes = {value for key, value in flatten(values["data"]) if key.rpartition(".")[2] == "img_size" and value}
    players = {player for name in steps for player in values["stage"]["steps"][name]["optimizers"]}
    found = {
        "model": {key: node for key, node in values["model"].items() if SINCE.get(key, "") in {"", *players}},
        "init_from": values.get("init_from"),
        "data": {"of": _kind(values["data"]), "img_size": sizes.pop() if len(sizes) == 1 else sorted(sizes)},
    }
    flat = dict(flatten(found))
    for name in steps:
        node = values["stage"]["steps"][name]
        flat |= flatten({key: node.get(key) for key in OF_STEP}, f"steps.{name}")
        flat |= {f"steps.{name}.optimizers.{p}": each["_target_"] for p, each in node["optimizers"].items()}
    return {
        key: value
        for key, value in flat.items()
        if value not in (None, False, [], {}) and key not in NAMES and not key.endswith(ASIDE)
    }


def _kind(data: dict[str, Any]) -> str:
    """What is learnt from: drawings of shapes are all of a kind, whatever else they are."""
    targets = {value for key, value in flatten(data) if key.rpartition(".")[2] == "_target_"}
    return "shapes" if targets == {SHAPES} else "shapes and pictures" if SHAPES in targets else "pictures"
