"""The data that each step trains on, opened; preflight/data.py checks the configuration before any of it is read."""

from typing import Any

from fluxflow_exp.config.compose import instantiate
from fluxflow_exp.config.schema import RunConfig, Step
from fluxflow_exp.data.mixture import Mixture
from fluxflow_exp.data.protocols import DataSet, Stream, digest
from fluxflow_exp.errors import UserError


def digest_of(data: DataSet) -> str | None:
    """A digest of what is trained on and judged by: names, captions, sizes, and how they are read. None: a stream."""
    if isinstance(data.train, Stream):
        return None
    return digest([data.train.fingerprint(times=False), data.validation.fingerprint(times=False)])[:16]


def build_data(config: RunConfig) -> dict[str, Any]:
    """Step → its data set; every step's is opened before the first one trains, each once."""
    built: dict[str, Any] = {}

    def build(node: Any, where: str) -> Any:
        key = repr(node)
        try:
            if key not in built:
                built[key] = instantiate(node)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error
        return built[key]

    def chosen(name: str, step: Step) -> Any:
        where = "data" if step.data is None else f"stage.steps.{name}.data"
        if "datasets" not in config.data:
            return build(config.data if step.data is None else step.data, where)
        picked = config.data["default"] if step.data is None else step.data
        if isinstance(picked, str):
            return build(config.data["datasets"][picked], f"data.datasets.{picked}")
        if "_target_" in picked:
            return build(picked, where)
        sets = {each: build(config.data["datasets"][each], f"data.datasets.{each}") for each in picked}
        try:
            return Mixture(sets, picked)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error

    return {name: chosen(name, step) for name, step in config.stage.steps.items()}
