"""`init_from`, the published weights that a run goes on from, and `model=published`, which is what they are of.

The file's metadata say how its parts are built. Anybody may have written them: what they name is taken only if it is
this package's, and none of it is an interpolation.
"""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fluxflow_exp import files
from fluxflow_exp.config import published
from fluxflow_exp.config.schema import Model
from fluxflow_exp.errors import UserError
from fluxflow_exp.models import facts

PUBLISHED = "published"  # the name of the model whose keys are those of the file
FREE = ("name", "learning_rate")  # keys of a model that build nothing
WAY = "init_from=RUN_FOLDER_OR_FILE"


def file_of(source: str) -> Path:
    """The published file that `init_from` means: of a run folder its final one."""
    path = Path(source).expanduser()
    return files.weights_folder(path) / "final.safetensors" if path.is_dir() else path


def fill(config: DictConfig) -> None:
    """Give model=published the keys of the file's model. UserError: no file of ours, or another value was asked for."""
    if OmegaConf.is_missing(config, "model") or config.model.get("name") != PUBLISHED:
        return
    source = config.get("init_from")
    if source is None:
        raise UserError(
            f"init_from is missing: {WAY} names the published weights to go on from, whose model model=published is"
        )
    path = file_of(source)
    found, differing = _model(path), []
    for key in Model.__dataclass_fields__:
        asked = None if OmegaConf.is_missing(config.model, key) else config.model[key]
        asked = OmegaConf.to_container(asked, resolve=True) if OmegaConf.is_config(asked) else asked
        if asked is None or key == "name":
            config.model[key] = found.get(key)
        elif key not in FREE and asked != found.get(key):
            differing.append(f"model.{key}={asked!r} is asked for, and {path} has {found.get(key)!r}: leave it out")
    if differing:
        raise UserError(*differing)


def start(values: dict[str, Any]) -> None:
    """Give the file of `init_from` to the first step of resolved `values` if that names none of its own."""
    source, steps = values.get("init_from"), list(values["stage"]["steps"].values())
    if source and steps and not steps[0].get("init_from"):
        steps[0]["init_from"] = str(file_of(source))


def _model(path: Path) -> dict[str, Any]:
    """The model that a published file says that it is of. UserError: it says none that may be built here."""
    if not path.is_file():
        raise UserError(f"init_from: there is no file {path}. Give {WAY}")
    try:
        model: dict[str, Any] = facts.read_facts(path)["model"]
    except ValueError as error:
        raise UserError(f"init_from: {str(error).removesuffix(f'. {facts.GIVE}')}. {facts.GIVE}") from error
    if "name" not in model or "learning_rate" not in model:
        raise UserError(f"init_from: {path} does not say which model it is of: name it, model=…")
    words = [word for word in published.own_words(model) if not published.is_own(word)]
    if words:
        raise UserError(
            f"init_from: {path} names {published.shown(', '.join(words))}, which is none of this package's. If you "
            "trust it, name the model yourself, as the run did that made it: model=…"
        )
    if "${" in repr(model):
        raise UserError(f"init_from: {path}: its metadata hold an interpolation, which no run writes")
    return model
