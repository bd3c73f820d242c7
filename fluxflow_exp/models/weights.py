"""Published weights: safetensors files that say how to build what they hold.

`<step>.safetensors` holds the averaged weights of the parts that a step trained, `<step>.raw.safetensors` the trained
ones, `final.safetensors` the averaged weights of every part of the pipeline but the discriminator. Tensors are named
`<part>.<parameter>`; one metadata entry holds a JSON of facts. Metadata is data: only the models of published.py are
ever built from it, at the shapes of the tensors beside it, and nothing is fetched.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fluxflow_exp import files
from fluxflow_exp.config import autoencoder, published
from fluxflow_exp.config.compose import PARTS, instantiate
from fluxflow_exp.config.published import ENCODER, PARTIAL, TARGET
from fluxflow_exp.models.facts import FORMAT, KEY, Facts, moment
from fluxflow_exp.models.facts import read_facts as read_facts  # of published files, whoever reads more of them
from fluxflow_exp.models.tensor_files import opened, write
from fluxflow_exp.preflight import targets

GENERATION_PARTS = ("expander", "flow_processor", "text_encoder")
ASSETS = ("config_json", "tokenizer_json")  # what a pretrained text encoder is rebuilt from
# Parameters that a part may make while it is built: PER_TENSOR for each that its file holds, and SPARE more. Some
# build more than they keep: of a T5 model its decoder, too.
PER_TENSOR, SPARE = 8, 1024

State = dict[str, Tensor]


def publish(path: Path, parts: dict[str, State], facts: Facts) -> None:
    """Write `parts` and `facts` to `path`, atomically."""
    tensors = {
        f"{part}.{name}": tensor.detach().cpu().contiguous().clone()
        for part, state in parts.items()
        for name, tensor in state.items()
    }
    metadata = {KEY: json.dumps({"format": FORMAT, **facts}, sort_keys=True)}
    files.write_atomically(path, lambda temporary: write(temporary, tensors, metadata))


def read_part(path: Path, part: str) -> State:
    """The tensors of one part; empty if the file does not hold it."""
    read_facts(path)
    with opened(path) as file:
        names = [name for name in file.keys() if name.startswith(f"{part}.")]  # noqa: SIM118
        return {name.removeprefix(f"{part}."): file.get_tensor(name) for name in names}


def shapes(path: Path, part: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of one part's tensors, without reading them."""
    read_facts(path)
    with opened(path) as file:
        names = [name for name in file.keys() if name.startswith(f"{part}.")]  # noqa: SIM118
        return {name.removeprefix(f"{part}."): tuple(file.get_slice(name).get_shape()) for name in names}


def load_model(path: Path, *, kind: str) -> tuple[dict[str, nn.Module], Facts]:
    """Build and fill the parts that generation needs. `kind`: ema, or raw (from the files beside `path`)."""
    facts = read_facts(path)
    words = [word for word in own_words(facts, GENERATION_PARTS) if not published.is_own(word)]
    if len(words) > 1:
        raise ValueError(f"{path}: {published.refusal(words)}")
    modules = {}
    for part in GENERATION_PARTS:
        state = read_part(holder(path, part, facts, kind), part)
        by_name = part == "text_encoder" and facts["text_encoder"] == "reference" and _is_pretrained(facts)
        if not state and not by_name:
            raise ValueError(
                f"{path} holds no {part} (it has {', '.join(facts['trained']) or 'no part'}). "
                "Generation needs the weights/final.safetensors of a run with a flow step"
            )
        modules[part] = _build(path, part, facts, state)
    return modules, facts


def own_words(facts: Facts, parts: Iterable[str]) -> list[str]:
    """What `parts` name that is none of this package's; a class of this package takes nothing of it."""
    nodes = [facts["model"].get(part) for part in parts]
    own = [node for node in nodes if isinstance(node, dict) and not published.is_published(node.get(TARGET))]
    return published.own_words(own)


def _is_pretrained(facts: Facts) -> bool:
    node = facts["model"].get("text_encoder")
    return isinstance(node, dict) and str(node.get(TARGET)).startswith("fluxflow_exp.models.huggingface.")


def load_part(path: Path, part: str, *, kind: str) -> nn.Module:
    """Build and fill one part that `path` holds. `kind`: ema, or raw (from the file beside `path`)."""
    facts = read_facts(path)
    return _build(path, part, facts, read_part(holder(path, part, facts, kind), part))


def holder(path: Path, part: str, facts: Facts, kind: str) -> Path:
    """The file that holds a part's weights of `kind`. ValueError: none does."""
    step = facts["trained"].get(part)
    if kind == "ema" or step is None:
        return path
    if step in facts.get("best", {}):
        raise ValueError(
            f"{path} holds {part} of step {step} {moment(facts, step)}, whose raw weights were not kept: "
            "the command of the run with publish.weights=last brings its end back, whose were"
        )
    raw = path.parent / f"{step}.raw.safetensors"
    if not raw.is_file():
        raise ValueError(f"the raw weights of {part} stand in {raw.name}, which is not beside {path}")
    return raw


def _build(path: Path, part: str, facts: Facts, state: State) -> nn.Module:
    """ValueError: the metadata do not say how, or of something else than these tensors."""
    node = node_of(path, part, facts)
    assets = {name: state[name] for name in ASSETS if name in state}
    given: dict[str, Any] = {"assets": assets} if assets else {}
    pretrained = node[TARGET] == ENCODER
    if pretrained and not assets:
        node = {**node, "local": True}  # it is named by a file, which is no reason to ask a network for it
    if state or not pretrained:
        differing = _differing(node, given, state, f"{path}: its metadata builds no {part} like the one that it holds")
        if differing:
            raise ValueError(f"{path}: its {part} is not what its metadata says: {published.shown(differing)}")
    try:
        module: nn.Module = instantiate(node, **given)
    except OSError as error:
        raise ValueError(f"{path}: {part} cannot be built: {error}") from error
    if state:
        module.load_state_dict(state)
    return module


def node_of(path: Path, part: str, facts: Facts) -> dict[str, Any]:
    """How the facts of `path` say that a part is built. ValueError: as something else, or with other arguments."""
    node = facts["model"].get(part)
    if part not in PARTS or not isinstance(node, dict):
        raise ValueError(f"{path}: its metadata does not say how to build {part}")
    node = dict(autoencoder.without_folder(node))  # the file has its weights
    name = node.get(TARGET)
    if not (isinstance(name, str) and published.is_known(name, "part")):
        raise ValueError(
            f"{path}: refusing to build {part} from {name!r}, which is no model of this package{_way(name)}"
        )
    inner = list(published.nodes(list(node.values())))
    for _, each in inner:
        if not published.is_own(name):
            raise ValueError(
                f"{path}: refusing to build {part} from {each[TARGET]!r}: {name} takes nothing of the kind"
            )
        if not published.is_known(each[TARGET]):
            raise ValueError(f"{path}: refusing to build {part} with {each[TARGET]!r} in it{_way(each[TARGET])}")
    for _, word in published.addresses([each for _, each in inner]):
        if not published.is_own(word):
            raise ValueError(f"{path}: refusing to open or fetch {word!r} for {part}{_way(word)}")
    problems = [published.shown(line) for line in targets.problems(node, f"model.{part}.")]
    if PARTIAL in node:
        problems.append(f"model.{part}.{PARTIAL}: a part is built whole")
    if problems:
        raise ValueError(f"{path}: its metadata cannot be built: {'; '.join(problems)}")
    return node


def _way(word: Any) -> str:
    """How the user allows `word`, if that can be done."""
    allowed = isinstance(word, str) and not published.is_known(word)
    return published.way_to_trust([word]) if allowed else ""


def _differing(node: dict[str, Any], given: dict[str, Any], state: State, refusal: str) -> str:
    """The first tensor whose shape is not that in `state`, in words; before anything of that size is allocated."""
    try:
        with _AtMost(PER_TENSOR * len(state) + SPARE):
            wanted = expected_shapes(node, **given)
    except Exception as error:  # whatever a constructor makes of a stranger's numbers
        said = "\n".join(published.shown(line) for line in str(error).split("\n"))
        raise ValueError(f"{refusal}: {said or type(error).__name__}") from error
    have = {name: tuple(tensor.shape) for name, tensor in state.items()}
    name = next((name for name in [*wanted, *have] if wanted.get(name) != have.get(name)), None)
    if name is None:
        return ""
    return f"{name} is {have.get(name, 'absent')} and should be {wanted.get(name, 'absent')}"


class _AtMost:
    """A limit to the parameters that modules get: a depth of 10^9 would be built for ever."""

    def __init__(self, limit: int) -> None:
        self.left = limit

    def __enter__(self) -> None:
        self.handle = nn.modules.module.register_module_parameter_registration_hook(self._count)

    def __exit__(self, *_: object) -> None:
        self.handle.remove()

    def _count(self, module: nn.Module, name: str, parameter: Any) -> None:
        self.left -= parameter is not None
        if self.left < 0:
            raise ValueError("it would have more tensors than are there")


def find_parts(source: Path, *, steps: list[str] | None = None) -> dict[str, Path]:
    """Part → the newest file that holds its averaged weights, for a run folder, its weights/, or a published file.

    `steps` limits a run folder to those steps. ValueError: there are no published weights.
    """
    if not source.is_dir():
        return dict.fromkeys(read_facts(source)["trained"], source)
    found = [
        path
        for path in files.matching(files.weights_folder(source), "*.safetensors")
        if path.name != "final.safetensors"
        and not path.name.endswith((".raw.safetensors", ".lora.safetensors"))
        and (steps is None or path.stem in steps)
    ]
    holders = {part: path for path in sorted(found, key=_age) for part in read_facts(path)["trained"]}
    if not holders:
        raise ValueError(f"{source} holds no published weights (no weights/*.safetensors)")
    return holders


def expected_shapes(node: dict[str, Any], **given: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes that the part described by `node` would have; nothing is allocated."""
    return {name: tuple(tensor.shape) for name, tensor in outline(node, **given).state_dict().items()}


def outline(node: dict[str, Any], **given: Any) -> nn.Module:
    """The part described by `node` with the shapes of its tensors and no values."""
    with torch.device("meta"), Uninitialised():
        module: nn.Module = instantiate(node, **given)
    return module


class Uninitialised(TorchFunctionMode):
    """Leaves normal numbers out: to draw none for a tensor without values, torch imports its compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (nn.init.normal_, Tensor.normal_):
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def _age(path: Path) -> int:
    return int(read_facts(path)["index"])
