"""The names that a `_target_` may have: those of the classes that this package publishes, and those that the user's own
command line or configuration folder names.

A file says what to build, too: weights by their metadata, a run folder by its config.yaml. A file may be anybody's, so
that what it names and neither of the two has is not imported; nor is what it names of commands, addresses and secrets
run, opened or sent (run/frozen.py).
"""

import importlib
import shlex
from collections.abc import Iterable, Iterator
from typing import Any

from fluxflow_exp.evaluation.measures import SETS

_MODELS, _LOSSES = "fluxflow_exp.models.", "fluxflow_exp.losses."
# By the place of a configuration that each may stand in.
PUBLISHED: dict[str, frozenset[str]] = {
    "part": frozenset(
        _MODELS + name
        for name in (
            "compact_vae.Compressor",
            "compact_vae.Expander",
            "diffusers_vae.Compressor",
            "diffusers_vae.Expander",
            "discriminator.PatchDiscriminator",
            "flow.FlowProcessor",
            "fluxflow_vae.Compressor",
            "fluxflow_vae.Expander",
            "huggingface.HuggingFaceTextEncoder",
            "text_encoder.ByteTextEncoder",
        )
    ),
    "loss": frozenset(
        _LOSSES + name
        for name in (
            "adversarial.Adversarial",
            "appearance.ColorStatistics",
            "appearance.Contrast",
            "appearance.Histogram",
            "augmentation.Augmentation",
            "equivariance.Equivariance",
            "feature_matching.FeatureMatching",
            "flow_matching.RectifiedFlow",
            "frequency.Frequency",
            "kl.KL",
            "lecam.LeCam",
            "perceptual.Perceptual",
            "reconstruction.Reconstruction",
            "repa.Repa",
            "self_alignment.SelfAlignment",
            "v_prediction.VPrediction",
        )
    ),
    "data set": frozenset(
        f"fluxflow_exp.data.{name}"
        for name in ("hf_dataset.HFDataset", "image_folder.ImageFolder", "shapes.Shapes", "webdataset.WebDataset")
    ),
    "trainer": frozenset(
        f"fluxflow_exp.trainers.{name}"
        for name in ("autoencoder.AutoencoderTrainer", "finetune.FinetuneTrainer", "flow.FlowTrainer")
    ),
    "optimizer": frozenset(
        ("fluxflow_exp.optimizers.muon.Muon", *(f"torch.optim.{name}" for name in ("Adam", "AdamW", "RMSprop", "SGD")))
    ),
    "scheduler": frozenset(
        f"fluxflow_exp.schedules.{name}"
        for name in ("constant", "cosine", "exponential", "linear", "plateau", "step")
    ),
}  # fmt: skip
TARGET, PARTIAL = "_target_", "_partial_"  # the only keys of a node that are not arguments

ENCODER, PERCEPTUAL = f"{_MODELS}huggingface.HuggingFaceTextEncoder", f"{_LOSSES}perceptual.Perceptual"
HUB_SET = "fluxflow_exp.data.hf_dataset.HFDataset"
# The networks of `evaluation.features` that are no stranger's choice.
FEATURES = ("efficientnet_lite0", "inception")
# Shards that are streamed or fetched begin with one of these.
REMOTE = ("http://", "https://", "hf://", "pipe:", "s3://", "gs://", "memory://", "file://")
TRUST = "what the file may name, as the refusal says: a class of your own (MODULE.NAME), an address; repeatable"

_own: set[str] = set()


def allow(words: Iterable[str]) -> None:
    """Let this process build, open or run what the user names; this package's own stays what it is."""
    _own.update(word for word in words if not any(word in names for names in PUBLISHED.values()))


def allow_all(values: Any) -> None:
    """The same for all that `values` name: the user has composed them."""
    allow(str(node[TARGET]) for _, node in nodes(values))
    allow(word for _, word in addresses(values))


def is_own(word: str) -> bool:
    """Whether the user of this process has named `word`."""
    return word in _own


def shown(text: str) -> str:
    """`text` of a file as a terminal may have it: escaped is what it would obey, or not show."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def advice(word: str, way: str) -> str:
    """`way`, with `word` for a shell; empty if the word is not what is seen of it."""
    return way.format(word=shlex.quote(word)) if word.isprintable() else ""


def own_words(values: Any) -> list[str]:
    """What `values` name that is none of this package's: classes and addresses, once each."""
    words = [str(node[TARGET]) for _, node in nodes(values)] + [word for _, word in addresses(values)]
    return [word for word in dict.fromkeys(words) if not is_published(word)]


def trusting(words: Iterable[str]) -> str:
    """The options of a command that allow `words`."""
    return " ".join(f"--trust {shlex.quote(word)}" for word in words)


def way_to_trust(words: list[str]) -> str:
    """How the user allows all of `words`, on a command line and in Python; empty if one is not what is seen of it."""
    if not all(word.isprintable() for word in words):
        return ""
    return f". If you trust {'it' if len(words) == 1 else 'them'}, add {trusting(words)} (in Python: trust={words})"


def refusal(words: list[str]) -> str:
    """Several words at once that are not allowed."""
    return (
        f"refusing to build or fetch {shown(', '.join(words))}, which are none of this package's{way_to_trust(words)}"
    )


def is_known(name: Any, kind: str | None = None) -> bool:
    """Whether `name` may be built here, as a `kind` if one is given."""
    if not isinstance(name, str):
        return False
    return name in _own or is_published(name, kind)


def is_published(name: Any, kind: str | None = None) -> bool:
    """Whether `name` is a class of this package, a `kind` if one is given."""
    return isinstance(name, str) and any(name in names for place, names in PUBLISHED.items() if kind in (None, place))


def locate(name: str) -> Any:
    """The class or function called `name`. ValueError: not to be built. ImportError, AttributeError: there is none."""
    if not is_known(name):
        raise ValueError("it is none of this package's, and not named on this command line")
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def nodes(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node with a `_target_` in `value`, with its dotted key; the outer one first."""
    if isinstance(value, dict):
        if TARGET in value:
            yield path, value
        for key, child in value.items():
            yield from nodes(child, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from nodes(child, f"{path}.{index}")


def addresses(values: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Dotted key and word of what is fetched, and from where: what data sets stream from (an address, a command) or
    are of the hub, the environment variable that they send there, a pretrained encoder that may be fetched, and the
    network of metrics."""
    measured = values.get("evaluation") if isinstance(values, dict) else None
    metrics = measured.get("metrics") if isinstance(measured, dict) else None
    if isinstance(measured, dict) and isinstance(metrics, list) and any(name in metrics for name in SETS):
        network = measured.get("features")
        if isinstance(network, str) and network not in FEATURES:
            yield "evaluation.features", network
    for key, node in nodes(values, path):
        urls = node.get("urls")
        for url in urls if isinstance(urls, list) else [urls]:
            if isinstance(url, str) and url.startswith(REMOTE):
                yield f"{key}.urls", url
        if node[TARGET] == HUB_SET and isinstance(node.get("dataset_name"), str):
            yield f"{key}.dataset_name", node["dataset_name"]
        if isinstance(node.get("token_env"), str):
            yield f"{key}.token_env", node["token_env"]
        if node[TARGET] == ENCODER and isinstance(node.get("name"), str) and node.get("local") is not True:
            yield f"{key}.name", node["name"]
