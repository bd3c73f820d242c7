"""A pretrained Hugging Face text encoder: its weights as they were published, frozen unless a step unfreezes it.

Encoders (BERT, the encoder half of T5 and T5Gemma, the text half of CLIP) and decoder-only language models (Qwen,
Gemma), whose hidden states describe a caption better the more of a prompt stands around it (Xie et al. 2024, Sana,
arXiv 2410.10629).
"""

import json
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from fluxflow_exp.config.bounds import PositiveInt, Whole
from fluxflow_exp.models import huggingface_files, prompt_template
from fluxflow_exp.models.layers import to_device
from fluxflow_exp.models.prompt_template import Drop, Prompt, PromptTemplate
from fluxflow_exp.models.text_encoder import Text


class HuggingFaceTextEncoder(nn.Module):
    """Captions → hidden states of the encoder `name`, a hub name or a folder: of the last layer, after its norm, or of
    `layer` as `hidden_states` counts (0 the embeddings, -2 the last layer but one). Padding, on the right, is masked.

    `template`: a text with {caption} in it, or `chat`, the model's own dialogue with `system_prompt`; then `max_length`
    counts its tokens, too, and a caption is cut at its end. `drop`: tokens that are read and not given on, those
    before the caption or all around it. `dtype` of the weights; a trained encoder's are float32. A caption without
    any token is the padding token.

    Buffers `config_json` and `tokenizer_json` make a state dict sufficient to build it again (`assets`) without files
    or network. `local`: nothing is fetched, as is due to a name that stands in a file. ValueError: the encoder is
    neither on this machine nor to be fetched, or is no text encoder, or has no such layer; the template leaves a
    caption no room.
    """

    pretrained = True
    unit = "tokens"
    config_json: Tensor
    tokenizer_json: Tensor

    # What a model's YAML may say, an option a key.
    def __init__(
        self,
        *,
        name: str,
        max_length: PositiveInt = 77,
        layer: Whole | None = None,
        template: str | None = None,
        system_prompt: str | None = None,
        drop: Drop | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        local: bool = False,
        assets: dict[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.max_length, self.layer, self.drop = max_length, layer, drop
        kind: torch.dtype = getattr(torch, dtype)
        loaded = (
            huggingface_files.fetch(name, local=local, dtype=kind)
            if assets is None
            else huggingface_files.rebuild(assets, dtype=kind)
        )
        self.tokenizer, self.model = loaded.tokenizer, loaded.model
        backend = json.loads(self.tokenizer.backend_tokenizer.to_str())  # as it was loaded: a use may change it
        self._set_up_tokenizer(name)
        kept = huggingface_files.decode(assets["tokenizer_json"]).get("template") if assets else None
        self.template = (
            PromptTemplate(*kept) if kept else prompt_template.make_template(self.tokenizer, template, system_prompt)
        )
        prompt_template.check_length(self.tokenizer, self.template, max_length)
        config: Any = self.model.config
        self.width, layers = int(config.hidden_size), int(config.num_hidden_layers)
        if layer is not None and not -layers - 1 <= layer <= layers:
            raise ValueError(
                f"{name!r} has {layers} layers: layer={layer} is none of 0 to {layers} or -{layers + 1} to -1"
            )
        self.register_buffer(
            "config_json", assets["config_json"] if assets else huggingface_files.encode(loaded.config)
        )
        self.register_buffer("tokenizer_json", assets["tokenizer_json"] if assets else self._tokenizer_json(backend))
        self.model.requires_grad_(False).eval()

    def forward(self, captions: list[str]) -> Text:
        return self.encode(*self.tokenise(captions))

    def tokenise(self, captions: list[str]) -> tuple[Tensor, ...]:
        """Return the arguments of `encode`, on the device: symbols and where they stand, (batch, length) each; with
        `drop` the places of those that are given on and whether there is one, (batch, kept) each."""
        prompts = self._prompts(captions)
        symbols = [torch.tensor(prompt.tokens) for prompt in prompts]
        found = [
            pad_sequence(symbols, batch_first=True, padding_value=self.tokenizer.pad_token_id),
            pad_sequence([torch.ones_like(each) for each in symbols], batch_first=True),
        ]
        if self.drop:
            places = [torch.arange(prompt.first, prompt.end) for prompt in prompts]
            found += [
                pad_sequence(places, batch_first=True),
                pad_sequence([torch.ones_like(each, dtype=torch.bool) for each in places], batch_first=True),
            ]
        return tuple(to_device(each, self.config_json.device) for each in found)

    def lengths(self, captions: list[str]) -> list[int]:
        """How many tokens each caption has, in its template; those after `max_length` are not read."""
        before, after, special = self.template
        texts = [f"{before}{caption}{after}" for caption in captions]
        found = self.tokenizer(texts, add_special_tokens=special, verbose=False)["input_ids"] if texts else []
        return [len(tokens) for tokens in found]

    def encode(self, symbols: Tensor, mask: Tensor, places: Tensor | None = None, kept: Tensor | None = None) -> Text:
        whole = self.layer is not None
        found = self.model(input_ids=symbols, attention_mask=mask, output_hidden_states=whole)
        hidden = found.last_hidden_state if self.layer is None else found.hidden_states[self.layer]
        if places is None or kept is None:
            return Text(hidden.float(), mask.bool())
        return Text(hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[-1])).float(), kept)

    def train(self, mode: bool = True) -> "HuggingFaceTextEncoder":
        """Stays in eval mode, trained or not: dropout would draw numbers that a resumed run could not draw again."""
        return super().train(False)

    def extra_repr(self) -> str:
        """What decides on tokens beside weights and template, and is not as it is by default: caches go by it."""
        known = {"max_length": (self.max_length, 77), "layer": (self.layer, None), "drop": (self.drop, None)}
        return ", ".join(f"{key}={value}" for key, (value, default) in known.items() if value != default)

    def _set_up_tokenizer(self, name: str) -> None:
        """What a caption becomes depends on nothing but the caption: padding and cuts are on the right."""
        mine = self.tokenizer
        mine.padding_side = mine.truncation_side = "right"
        mine.pad_token = mine.pad_token or mine.eos_token
        if mine.pad_token is None:
            raise ValueError(f"the tokenizer of {name!r} has neither a padding nor an end token: give it a pad_token")

    def _tokenizer_json(self, backend: dict[str, Any]) -> Tensor:
        kept = {"template": list(self.template)} if self.template != PromptTemplate() else {}
        return huggingface_files.encode({"backend": backend, "pad": self.tokenizer.pad_token, **kept})

    def _prompts(self, captions: list[str]) -> list[Prompt]:
        """`max_length` tokens of each caption, one at least."""
        return prompt_template.read(self.tokenizer, self.template, captions, max_length=self.max_length, drop=self.drop)
