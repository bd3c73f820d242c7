"""A pretrained Hugging Face text encoder: its weights as they were published, frozen unless a step unfreezes it."""

import json
import re
from typing import Any

import torch
from torch import Tensor, nn

from fluxflow_exp.config.bounds import PositiveInt
from fluxflow_exp.models.layers import to_device
from fluxflow_exp.models.text_encoder import Text

# Keys of a configuration by which transformers finds code, kernels or weights elsewhere.
CODE = re.compile(r"auto_map|_implementation|kernel_config|use_kernels|backbone|quantization_config")


class HuggingFaceTextEncoder(nn.Module):
    """Captions → the last hidden states of the encoder `name`, a hub name or a folder; padding is masked.

    Of encoder-decoder models and of CLIP the text encoder alone is taken. Buffers `config_json` and `tokenizer_json`
    make a state dict sufficient to build it again (`assets`) without files or network. `local`: nothing is fetched, as
    is due to a name that stands in a file. ValueError: the encoder is neither on this machine nor to be fetched.
    """

    pretrained = True
    unit = "tokens"
    config_json: Tensor
    tokenizer_json: Tensor

    def __init__(
        self, *, name: str, max_length: PositiveInt = 77, local: bool = False, assets: dict[str, Tensor] | None = None
    ) -> None:
        super().__init__()
        self.max_length = max_length
        if assets is None:
            self.tokenizer, self.model = _fetch(name, local=local)
        else:
            self.tokenizer, self.model = _rebuild(assets)
        backend = json.loads(self.tokenizer.backend_tokenizer.to_str())
        special = {"backend": backend, "pad": self.tokenizer.pad_token or self.tokenizer.eos_token}
        self.tokenizer.pad_token = special["pad"]
        config: Any = self.model.config
        self.width = int(config.hidden_size)
        self.register_buffer("config_json", assets["config_json"] if assets else _encode(_config(self.model)))
        self.register_buffer("tokenizer_json", assets["tokenizer_json"] if assets else _encode(special))
        self.model.requires_grad_(False).eval()

    def forward(self, captions: list[str]) -> Text:
        return self.encode(*self.tokenise(captions))

    def tokenise(self, captions: list[str]) -> tuple[Tensor, ...]:
        """Return the arguments of `encode`, on the device: symbols and where they stand, (batch, length) each."""
        tokens = self.tokenizer(
            captions, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        )
        return tuple(to_device(tokens[key], self.config_json.device) for key in ("input_ids", "attention_mask"))

    def lengths(self, captions: list[str]) -> list[int]:
        """How many tokens each caption has; those after `max_length` are not read."""
        return [len(tokens) for tokens in self.tokenizer(captions, verbose=False)["input_ids"]] if captions else []

    def encode(self, symbols: Tensor, mask: Tensor) -> Text:
        hidden = self.model(input_ids=symbols, attention_mask=mask).last_hidden_state
        return Text(hidden.float(), mask.bool())

    def train(self, mode: bool = True) -> "HuggingFaceTextEncoder":
        """Stays in eval mode, trained or not: dropout would draw numbers that a resumed run could not draw again."""
        return super().train(False)


def _fetch(name: str, *, local: bool) -> tuple[Any, nn.Module]:
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    from_there = {"local_files_only": local, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **from_there)
        if torch.get_default_device().type != "cpu":  # an outline, or a plan's: shapes are wanted, and no values
            config = AutoConfig.from_pretrained(name, **from_there)
            model = AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False)
        else:
            model = AutoModel.from_pretrained(name, dtype=torch.float32, **from_there)
    except OSError as error:
        why = "not on this machine, and a file has nothing fetched" if local else "neither on this machine nor online"
        raise ValueError(
            f"the text encoder {name!r} is {why}. Where there is a network: "
            f'python -c "from transformers import AutoModel, AutoTokenizer as T; n={name!r}; '
            'AutoModel.from_pretrained(n); T.from_pretrained(n)", or give model.text_encoder.name=FOLDER with its files'
        ) from error
    return tokenizer, _text_part(model)


def _rebuild(assets: dict[str, Tensor]) -> tuple[Any, nn.Module]:
    from tokenizers import Tokenizer
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    special = _decode(assets["tokenizer_json"])
    backend = Tokenizer.from_str(json.dumps(special["backend"]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=special["pad"])
    values = {key: value for key, value in _decode(assets["config_json"]).items() if not CODE.search(key)}
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    return tokenizer, _text_part(AutoModel.from_config(config, trust_remote_code=False))


def _text_part(model: Any) -> nn.Module:
    if model.config.is_encoder_decoder:
        part: nn.Module = model.get_encoder()
        return part
    text_part: nn.Module = getattr(model, "text_model", model)  # CLIP keeps its text encoder under this name
    return text_part


def _config(model: Any) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
    return values


def _encode(value: dict[str, Any]) -> Tensor:
    return torch.tensor(list(json.dumps(value, sort_keys=True).encode()), dtype=torch.uint8)


def _decode(data: Tensor) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(bytes(data.tolist()))
    return value
