"""What is exported: the parts of a published model that generate, how each is built, and the run that they are from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxflow_exp.config import published
from fluxflow_exp.config.published import TARGET
from fluxflow_exp.errors import UserError
from fluxflow_exp.models import lora, weights
from fluxflow_exp.models.facts import Facts
from fluxflow_exp.models.weights import GENERATION_PARTS, State
from fluxflow_exp.run import judged, lookup
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.judged import Guidance


# One field for each thing that an exported folder tells.
@dataclass
class Source:
    path: Path  # the published file
    kind: str  # ema or raw
    run: RunFolder | None  # None: the file stands in no run
    facts: Facts
    nodes: dict[str, dict[str, Any]]  # part → how it is built
    states: dict[str, State]  # part → its tensors, and all that it is built from
    parameters: dict[str, int]  # part → how many
    adapter: Path | None  # what is merged into the weights, `adapter_scale` times
    adapter_scale: float

    @property
    def name(self) -> str:
        return self.run.path.absolute().name if self.run else self.path.stem

    @property
    def guidance(self) -> Guidance:
        """What its run is judged at; none of a flow that never left a caption out."""
        flow = self.facts["flow"]
        if flow is None or flow["cfg_dropout_prob"] == 0:
            return Guidance(1.0, None)
        return judged.guidance(self.run.frozen() if self.run else {})

    def target(self, part: str) -> str:
        return str(self.nodes[part][TARGET])

    def arguments(self, part: str) -> dict[str, Any]:
        return {key: value for key, value in self.nodes[part].items() if key != TARGET}

    def facts_alone(self) -> Facts:
        """The facts of a file that holds these parts and no others."""
        trained = {part: step for part, step in self.facts["trained"].items() if part in self.nodes}
        model = {key: value for key, value in self.facts["model"].items() if not isinstance(value, dict)} | self.nodes
        return {**self.facts, "kind": self.kind, "model": model, "trained": trained, "text_encoder": "embed"}


def read(given: Path, *, kind: str = "ema", adapter: Path | None = None, adapter_scale: float = 1.0) -> Source:
    """The model in a run folder or a published file, with an adapter merged into it if one is given.

    UserError: there is none, or it cannot be exported.
    """
    path = lookup.final(given)
    run = RunFolder(path.absolute().parents[1])
    try:
        adapter = lora.file_of(adapter) if adapter else None
        facts = weights.read_facts(path)
        for part in GENERATION_PARTS:
            _check(path, part, facts)
        model, _ = weights.load_model(path, kind=kind)
        if adapter:
            lora.apply(model, adapter, scale=adapter_scale)
        nodes = {part: weights.node_of(path, part, facts) for part in GENERATION_PARTS}
    except lora.AdapterError as error:
        raise UserError(f"--lora: {error}") from error
    except ValueError as error:
        raise UserError(str(error)) from error
    states = {part: model[part].state_dict() for part in GENERATION_PARTS}
    parameters = {part: sum(each.numel() for each in model[part].parameters()) for part in GENERATION_PARTS}
    there = run if run.exists() else None
    return Source(path, kind, there, facts, nodes, states, parameters, adapter, adapter_scale)


def _check(path: Path, part: str, facts: Facts) -> None:
    """UserError: a part is built with a class whose code this package does not have."""
    own = weights.own_words(facts, [part])
    if own:
        raise UserError(
            f"{path}: its {part} is built with {published.shown(', '.join(own))}, which is none of this package's "
            "models: only their code can be exported. Generate with fluxflow-generate --trust instead"
        )
