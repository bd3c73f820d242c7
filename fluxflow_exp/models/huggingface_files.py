"""Pretrained text encoders and their tokenizers, from a folder or a hub name, or from what a weights file holds.

Of a model that does more than to encode text its text encoder alone is taken: of T5 and T5Gemma the encoder (the
decoder is not even read), of CLIP the text half, of a language model that sees images its language model.
"""

import inspect
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from fluxflow_exp.machine import network

# Keys of a configuration by which transformers finds code, kernels or weights elsewhere.
CODE = re.compile(r"auto_map|_implementation|kernel_config|use_kernels|backbone|quantization_config")
ENCODER_HALF = "EncoderModel"  # so end the names of transformers' classes without a decoder
PATHS = ("/", ".", "~")  # so begin names of folders
PARTS = ("text_model", "language_model")  # what models of several kinds of input call the one of text


class Loaded(NamedTuple):
    tokenizer: Any
    model: nn.Module
    config: dict[str, Any]  # what `rebuild` needs to know of its layers


def fetch(name: str, *, local: bool, dtype: torch.dtype) -> Loaded:
    """The encoder `name` with its weights. ValueError: it is not there, not whole, or does not encode text."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _fetch(name, str(folder), dtype, local=local)
    if local or name.startswith(PATHS):
        return _fetch(name, name, dtype, local=True)
    with network.hub(f"the text encoder {name!r}") as silent:
        return _fetch(name, name, dtype, local=bool(silent), silent=silent)


def _fetch(name: str, place: str, dtype: torch.dtype, *, local: bool, silent: str = "") -> Loaded:
    from transformers import AutoConfig, AutoTokenizer

    from_there = {"local_files_only": local, "trust_remote_code": False}
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(place, **from_there)
            config = AutoConfig.from_pretrained(place, **from_there)
            if torch.get_default_device().type != "cpu":  # an outline, or a plan's: shapes are wanted, and no values
                return Loaded(_fast(tokenizer, name), *_build(config, dtype, name))
            loader, config = _loader(config)
            model, told = loader.from_pretrained(
                place, config=config, dtype=dtype, output_loading_info=True, **from_there
            )
    except _NoTextError:
        raise
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise ValueError(_why(name, error, local=local, silent=silent)) from error
    part, values = _text_part(model, name)
    _check_whole(name, model, part, told["missing_keys"])
    return Loaded(_fast(tokenizer, name), part, values)


def rebuild(assets: dict[str, Tensor], *, dtype: torch.dtype) -> Loaded:
    """The encoder that `encode`d configuration and tokenizer describe; its weights are still to come."""
    from tokenizers import Tokenizer
    from transformers import AutoConfig, PreTrainedTokenizerFast

    special = decode(assets["tokenizer_json"])
    backend = Tokenizer.from_str(json.dumps(special["backend"]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=special["pad"])
    values = {key: value for key, value in decode(assets["config_json"]).items() if not CODE.search(key)}
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    return Loaded(tokenizer, *_build(config, dtype, "the one in the file"))


def encode(value: dict[str, Any]) -> Tensor:
    return torch.tensor(list(json.dumps(value, sort_keys=True).encode()), dtype=torch.uint8)


def decode(data: Tensor) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(bytes(data.tolist()))
    return value


class _NoTextError(ValueError):
    """The files are whole, and of something else."""


def _build(config: Any, dtype: torch.dtype, name: str) -> tuple[nn.Module, dict[str, Any]]:
    loader, config = _loader(config)
    return _text_part(loader.from_config(config, dtype=dtype, trust_remote_code=False), name)


def _loader(config: Any) -> tuple[Any, Any]:
    """Who loads a model of this configuration: of encoder and decoder the encoder alone, where there is a class."""
    from transformers import AutoModel, AutoModelForTextEncoding
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING as ENCODERS

    if type(config) in ENCODERS and ENCODERS[type(config)].__name__.endswith(ENCODER_HALF):
        config.is_encoder_decoder = False
        return AutoModelForTextEncoding, config
    return AutoModel, config


def _text_part(model: Any, name: str) -> tuple[nn.Module, dict[str, Any]]:
    """The text encoder of `model`, and the configuration by which it is built again."""
    from transformers import MODEL_MAPPING

    half = type(model).__name__.endswith(ENCODER_HALF)
    if half or model.config.is_encoder_decoder:
        part: Any = model.get_encoder()
    else:
        part = next((getattr(model, each) for each in PARTS if hasattr(model, each)), model)
    if "input_ids" not in inspect.signature(part.forward).parameters or not hasattr(part.config, "hidden_size"):
        raise _NoTextError(f"{name!r} is no text encoder: a {type(model).__name__} does not read tokens")
    config = part.config if type(part.config) in MODEL_MAPPING else model.config
    if half:
        config.is_encoder_decoder = True  # as its model's file says
    return part, json.loads(config.to_json_string(use_diff=False))


def _check_whole(name: str, model: nn.Module, part: nn.Module, missing: Iterable[str]) -> None:
    """ValueError: the encoder has weights that its file did not give: they are random. Poolers are not used."""
    used = {id(parameter) for parameter in part.parameters()}
    names = {key for key, parameter in model.named_parameters(remove_duplicate=False) if id(parameter) in used}
    absent = sorted(key for key in names.intersection(missing) if "pooler" not in key)
    if absent:
        raise ValueError(
            f"{name!r}: its weights lack {len(absent)} tensors of a {type(part).__name__}, {absent[0]} among them: "
            "the folder is not whole, or its config.json is another model's"
        )


def _fast(tokenizer: Any, name: str) -> Any:
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"{name!r} has no tokenizer.json, which is needed: load its tokenizer where its library is installed, and "
            "save_pretrained it"
        )
    return tokenizer


def _why(name: str, error: Exception, *, local: bool, silent: str) -> str:
    folder = Path(name).expanduser()
    said = str(error).strip().split("\n")[0] or type(error).__name__
    if folder.is_dir():
        lacking = [file for file in ("config.json", "tokenizer.json") if not (folder / file).is_file()]
        wrong = f"lacks {' and '.join(lacking)}" if lacking else f"cannot be loaded: {said}"
        return (
            f"the text encoder's folder {name!r} {wrong}. It must hold what save_pretrained writes of a transformers "
            "model and of its tokenizer: config.json, model.safetensors, tokenizer.json"
        )
    if name.startswith(PATHS):
        return f"there is no folder {name!r} with a text encoder"
    here = f"not on this machine, and {silent or 'a file has nothing fetched'}"
    why = here if local else "neither on this machine nor online"
    return (
        f"the text encoder {name!r} is {why}. Where there is a network: "
        f'python -c "from transformers import AutoModel, AutoTokenizer as T; n={name!r}; '
        'AutoModel.from_pretrained(n); T.from_pretrained(n)", or give model.text_encoder.name=FOLDER with its files'
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' bars, and its report of a decoder's weights that are left out."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
