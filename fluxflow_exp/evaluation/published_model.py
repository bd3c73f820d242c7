"""The parts of a published model that are measured, averaged or raw, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from fluxflow_exp import files
from fluxflow_exp.config import published
from fluxflow_exp.errors import UserError
from fluxflow_exp.evaluation import digests
from fluxflow_exp.models import weights
from fluxflow_exp.models.facts import last_share
from fluxflow_exp.run import frozen, lookup
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.identity import IDENTITY

Kind = Literal["ema", "raw"]
AUTOENCODER = ("compressor", "expander")
FLOW = ("flow_processor", "text_encoder")


@dataclass(frozen=True)
class Parts:
    """Parts on the device in eval mode, and a digest of all their tensors."""

    modules: dict[str, nn.Module]
    digest: str

    def __getitem__(self, part: str) -> Any:
        return self.modules[part]


class Subject:
    """A run folder, or a published file in one; outside of one with the run's `config`.

    Where that is not there, files are proposed that hold `parts`.

    UserError: there are no weights, or nothing says what they were trained on.
    """

    def __init__(self, source: Path, *, config: Path | None = None, parts: tuple[str, ...] = ()) -> None:
        self.file = _file(source, parts)
        try:
            self.facts = weights.read_facts(self.file)
        except ValueError as error:
            raise UserError(str(error)) from error
        if self.facts["kind"] == "raw" or self.file.name.endswith(".raw.safetensors"):
            named = self.file.name.replace(".raw", "")
            raise UserError(f"{self.file} holds raw weights: name {named} beside it, and add --raw for these")
        run = lookup.around(self.file)
        self.run = run if run and self.file.resolve().parent == run.weights.resolve() else None
        if config is None and self.run is None:
            raise UserError(
                f"{self.file} is not in the weights/ of a run folder, so that nothing says which images were held out: "
                "add --config CONFIG, the config.yaml of its run"
            )
        given = config or self.run.config  # type: ignore[union-attr]
        self.values: dict[str, Any] = frozen.framed(_config(given) if config else frozen.read_config(given), given)
        self.holders = self._holders()

    @property
    def name(self) -> str:
        return self.file.stem

    @property
    def unit(self) -> int:
        """Pixels a side that images must be a multiple of: a latent's, or a patch's of these."""
        try:
            flow = weights.node_of(self.file, "flow_processor", self.facts) if self.facts["flow"] else {}
        except ValueError as error:
            raise UserError(str(error)) from error
        return int(self.facts["downscale"]) * int(flow.get("patch_size", 1))

    def lacks(self, parts: tuple[str, ...]) -> list[str]:
        by_name = self.facts["text_encoder"] == "reference"
        return [part for part in parts if part not in self.holders and not (by_name and part == "text_encoder")]

    def check_trusted(self, *, data: bool) -> None:
        """UserError: parts, with `data` the run's data sets too, name several that are not allowed: all of them."""
        words = []
        for part in (*AUTOENCODER, *FLOW):
            words += weights.own_words(weights.read_facts(self.holders.get(part, self.file)), [part])
        if data:
            steps = self.values["stage"]["steps"].values()
            words += published.own_words([self.values["data"], [step["data"] for step in steps]])
        words = [word for word in dict.fromkeys(words) if not published.is_own(word)]
        if len(words) > 1:
            raise UserError(f"{self.file}: {published.refusal(words)}")

    def step(self, part: str) -> str:
        """That last trained `part`."""
        return str(weights.read_facts(self.holders[part])["trained"][part])

    def update(self, step: str) -> int | None:
        """The one of `step` that the weights are of, the last one if they lie before it, if a run says it."""
        if step in self.facts.get("best", {}) and self.last_share(step) is None:
            return int(self.facts["best"][step])
        done = self.run.read_record()["steps"].get(step) if self.run else None
        return int(done["updates"]) if done else None

    def last_share(self, step: str) -> float | None:
        """How much of the weights is of the end of `step`, the rest of its best point; None: they are of one update."""
        return last_share(self.facts, step)

    def conditioned(self, step: str) -> bool:
        """Whether `step` trained the expander with SPADE."""
        return bool(self._step_values(step)["trainer"].get("spade", "never") != "never")

    def check_raw(self, parts: tuple[str, ...]) -> None:
        """UserError: raw weights of one of `parts` are not kept."""
        for part in parts:
            file = self.holders.get(part, self.file)
            try:
                weights.holder(file, part, weights.read_facts(file), "raw")
            except ValueError as error:
                raise UserError(str(error)) from error

    def load(self, parts: tuple[str, ...], device: torch.device, *, raw: tuple[str, ...] = ()) -> Parts:
        """`parts`, those in `raw` as they were last trained."""
        modules = {}
        for part in parts:
            holder = self.holders.get(part, self.file)
            try:
                modules[part] = weights.load_part(holder, part, kind="raw" if part in raw else "ema")
            except ValueError as error:
                raise UserError(str(error)) from error
            modules[part].to(device).eval().requires_grad_(False)
        tensors = {f"{part}.{name}": t for part, m in modules.items() for name, t in m.state_dict().items()}
        return Parts(modules, digests.of_tensors(tensors))

    def _step_values(self, step: str) -> dict[str, Any]:
        steps = self.values["stage"]["steps"]
        if step not in steps:
            raise UserError(f"{self.file} was trained in a step {step!r} that its configuration does not have")
        found: dict[str, Any] = steps[step]
        return found

    def _holders(self) -> dict[str, Path]:
        """Part → the file that holds it: this one, else that of the newest earlier step of its run."""
        own = weights.find_parts(self.file)
        if self.run is None:
            return own
        steps = list(self.values["stage"]["steps"])[: self.facts["index"]]
        return {**weights.find_parts(self.run.path, steps=steps), **own}


def _file(source: Path, parts: tuple[str, ...]) -> Path:
    """The weights that `source` names: of a run its final ones, or those of its last finished step."""
    source = lookup.weights(source, parts=parts)
    final = files.weights_folder(source) / "final.safetensors"
    if source.is_file() or final.is_file():
        return source if source.is_file() else final
    try:
        holders = weights.find_parts(source)
    except ValueError as error:
        run = RunFolder(source)
        ended = list(run.read_record()["steps"]) if run.exists() else []
        why = f"{', '.join(ended)} ended, and the weights are gone" if ended else "none of its steps has ended yet"
        raise UserError(f"there are no weights in {source / 'weights'}: {why}") from error
    return max(holders.values(), key=lambda path: int(weights.read_facts(path)["index"]))


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"--config: there is no file {path}")
    values = frozen.read_config(path)
    lacking = [section for section in IDENTITY if section not in values]
    if lacking:
        raise UserError(f"--config: {path} is not the config.yaml of a run (it has no {', '.join(lacking)})")
    return values
