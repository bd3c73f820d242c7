"""An autoencoder in diffusers' format: its config.json, read from a folder or file and judged before anything is built.

A folder is what `save_pretrained` writes: config.json, and the weights in safetensors files.
"""

import json
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from fluxflow_exp.errors import UserError

# Class → its arguments that have a value for each stage of a half: a half changes sizes once less than it has stages.
STAGES = {
    "AutoencoderKL": (("block_out_channels", "down_block_types"), ("block_out_channels", "up_block_types")),
    "AutoencoderDC": (
        ("encoder_block_out_channels", "encoder_layers_per_block", "encoder_qkv_multiscales"),
        ("decoder_block_out_channels", "decoder_layers_per_block", "decoder_qkv_multiscales"),
    ),
}
SUPPORTED = (
    "model/autoencoder=diffusers takes AutoencoderKL and AutoencoderDC, for pictures of 3 channels: "
    "model.autoencoder.path=FOLDER with config.json and diffusion_pytorch_model.safetensors, as save_pretrained "
    "writes it, or model.autoencoder.config=FILE, a config.json alone, for fresh weights"
)
INSTALL = "the library diffusers is not installed: pip install 'fluxflow-exp[diffusers]'"
WEIGHTS = "diffusion_pytorch_model"
HALVES = tuple(f"fluxflow_exp.models.diffusers_vae.{half}" for half in ("Compressor", "Expander"))
Config = dict[str, Any]


def chosen(path: Any, config: Any) -> Config:
    """The configuration of `model.autoencoder`: of the folder `path`, or of the file `config`.

    UserError: not exactly one is given, or it is not there, not whole, or of another kind.
    """
    if path is None and config is None:
        raise UserError(
            "model/autoencoder=diffusers: give model.autoencoder.path=FOLDER, or model.autoencoder.config=FILE, a "
            "config.json alone, for fresh weights"
        )
    if path is not None and config is not None:
        raise UserError("model.autoencoder.path and model.autoencoder.config are both given: leave one of them out")
    if isinstance(config, dict):  # a run's own record of it
        return _judged(config, "model.autoencoder.config")
    if find_spec("diffusers") is None:
        raise UserError(f"model/autoencoder=diffusers: {INSTALL}")
    file = Path(str(config)).expanduser() if path is None else _folder(path) / "config.json"
    where = f"model.autoencoder.{'config' if path is None else 'path'}={config if path is None else path}"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no JSON"
        raise UserError(f"{where}: {file} cannot be read ({why})") from error
    return _judged(found, where)


def variant(folder: Path) -> str | None:
    """The word in the names of a folder's weights files, None where it is the plain name. UserError: there are none."""
    return _weights(folder)[0]


def stored(folder: Path) -> tuple[Path, dict[str, tuple[int, ...]]]:
    """A folder's weights file, or the index of several, and name → shape of its tensors, by the headers alone.

    UserError: a file is not there or not whole.
    """
    file = listed = _weights(folder)[1]
    found: dict[str, tuple[int, ...]] = {}
    try:
        several = listed.suffix == ".json"
        names = {*json.loads(listed.read_text(encoding="utf-8"))["weight_map"].values()} if several else {listed.name}
        for file in (folder / name for name in sorted(names)):
            with safe_open(file, framework="np") as opened:
                found |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise UserError(
            f"model.autoencoder.path={folder}: {file.name} cannot be read ({error}): copy or download it again"
        ) from error
    return listed, found


def is_half(node: Any) -> bool:
    """Whether the part that `node` builds is half of an autoencoder of diffusers; other parts may have its keys."""
    return isinstance(node, dict) and node.get("_target_") in HALVES


def deterministic(node: Any) -> bool:
    """Whether the compressor that `node` builds gives latents, and no distribution over them."""
    config = node.get("config") if is_half(node) else None
    return isinstance(config, dict) and config.get("_class_name") == "AutoencoderDC"


def begins_trained(node: Any) -> bool:
    """Whether the part that `node` builds begins with weights of a folder of diffusers."""
    return is_half(node) and node.get("weights_path") is not None


def without_folder(node: Any) -> Any:
    """The `node` of a part whose weights stand elsewhere than in a folder of diffusers."""
    return {key: value for key, value in node.items() if key != "weights_path"} if is_half(node) else node


def downscale(config: Config, half: int) -> int:
    """By how much a half (0: the encoder, 1: the decoder) changes height and width."""
    return int(2 ** (len(config[STAGES[config["_class_name"]][half][0]]) - 1))


def narrowed(config: Config, channels: int) -> Config:
    """`config` with at most so many latent channels, and about as many in every stage."""
    latents = min(int(config["latent_channels"]), channels)
    width = latents * -(-channels // latents)  # AutoencoderDC's shortcuts repeat and average whole channels
    stages = {key: [width] * len(config[key]) for half in STAGES[config["_class_name"]] for key in half[:1]}
    groups = {"norm_num_groups": math.gcd(width, config.get("norm_num_groups", 32))}
    heads = {"attention_head_dim": min(width, config.get("attention_head_dim", 32))}
    inner = groups if config["_class_name"] == "AutoencoderKL" else heads
    return {**config, **stages, **inner, "latent_channels": latents}


def problem(config: Any) -> str | None:
    """What keeps `config` from being that of an autoencoder that is supported; None: nothing."""
    if not isinstance(config, dict):
        return "it holds no keys and values"
    kind = config.get("_class_name")
    if kind not in STAGES:
        return f"{f'its _class_name is {kind!r}' if kind else 'it has no _class_name'}. {SUPPORTED}"
    if not isinstance(config.get("latent_channels"), int):
        return "it does not say its latent_channels"
    for key in ("in_channels", "out_channels"):
        if config.get(key, 3) != 3:
            return f"its {key} is {config[key]}. {SUPPORTED}"
    for half in STAGES[kind]:
        absent = [key for key in half if not isinstance(config.get(key), list)]
        if absent:
            return f"{absent[0]} is no list, one value a stage"
        if len({len(config[key]) for key in half}) > 1:
            return f"{' and '.join(half)} differ in length, and have one value a stage"
    return None


def _judged(found: Any, where: str) -> Config:
    wrong = problem(found)
    if wrong:
        raise UserError(f"{where}: {wrong}")
    # What is left out says where and with what it was saved.
    return {key: value for key, value in found.items() if key == "_class_name" or not key.startswith("_")}


def _folder(path: Any) -> Path:
    folder = Path(str(path)).expanduser()
    where = f"model.autoencoder.path={path}"
    if folder.is_file():
        raise UserError(f"{where} is a file: give the folder of config.json and its weights")
    if not folder.is_dir():
        raise UserError(f"{where}: there is no such folder")
    if (folder / "model_index.json").is_file():
        raise UserError(f"{where} is a whole pipeline: its autoencoder is probably in {folder / 'vae'}")
    if (folder / "config.json").is_file():
        variant(folder)
    return folder


def _weights(folder: Path) -> tuple[str | None, Path]:
    """What `variant` gives, and the file or the index of several, which goes first as in the library."""
    for word in (None, "fp16", "bf16", "fp32"):
        stem = f"{WEIGHTS}.{word}" if word else WEIGHTS
        for name in (f"{WEIGHTS}.safetensors.index{f'.{word}' if word else ''}.json", f"{stem}.safetensors"):
            if (folder / name).is_file():
                return word, folder / name
    pickled = next(iter(sorted(folder.glob("*.bin"))), None)
    way = "save it anew with save_pretrained, which writes safetensors"
    why = f"{pickled.name} is a pickle, which is not opened: {way}" if pickled else f"no {WEIGHTS}.safetensors in it"
    raise UserError(f"model.autoencoder.path={folder}: there are no weights: {why}")
