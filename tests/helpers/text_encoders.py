"""Small text encoders of random weights, saved to folders by the classes that save the real ones."""

from pathlib import Path
from typing import Any

import pytest
import torch

WIDTH, LAYERS = 16, 3
SAID = ["a red circle on a blue ground", "a blue square", "two small squares beside a red circle", "äöü ☃"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TURNS = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
KINDS = ("qwen2", "qwen3", "gemma2", "gemma3", "gemma3_vision", "t5", "t5_encoder", "t5gemma", "clip", "clip_text")


def save(path: Path, kind: str, *, left: bool = False, seed: int = 0) -> Path:
    """The folder `path` with a model and its tokenizer; `left`: the tokenizer pads there, as those of chats do."""
    transformers = pytest.importorskip("transformers")
    tokenizer = _tokenizer(kind)
    tokenizer.padding_side = "left" if left else "right"
    tokenizer.save_pretrained(path)
    torch.manual_seed(seed)
    _model(transformers, kind, len(tokenizer)).save_pretrained(path)
    return path


def _tokenizer(kind: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    chat = {"qwen": CHATML, "gemm": TURNS}.get(kind[:4])
    names = {
        "qwen": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        "gemm": ["<pad>", "<bos>", "<start_of_turn>", "<end_of_turn>"],
        "t5ge": ["<pad>", "<bos>", "<eos>"],
        "clip": ["<|startoftext|>", "<|endoftext|>"],
    }.get(kind[:4], ["<pad>", "</s>"])
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=names, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(SAID * 4, trainer)
    around = {"gemm": "<bos> $A", "t5ge": "<bos> $A", "clip": "<|startoftext|> $A <|endoftext|>"}.get(kind[:4])
    around = around or ("$A </s>" if kind.startswith("t5") else None)
    if around:
        added = [(name, backend.token_to_id(name)) for name in names]
        backend.post_processor = processors.TemplateProcessing(single=around, special_tokens=added)
    known = {
        "pad_token": next((name for name in names if "pad" in name), names[-1] if kind[:4] == "clip" else names[0])
    }
    known |= {"bos_token": "<bos>"} if "<bos>" in names else {}
    made = PreTrainedTokenizerFast(tokenizer_object=backend, **known)
    made.chat_template = chat
    return made


def _model(transformers: Any, kind: str, words: int) -> Any:
    size: dict[str, Any] = {
        "vocab_size": words, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2,
        "intermediate_size": 32, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    grouped = {**size, "num_key_value_heads": 1}
    seeing = {**size, "num_hidden_layers": 1, "image_size": 8, "patch_size": 4}
    t5 = {"vocab_size": words, "d_model": WIDTH, "d_kv": 8, "d_ff": 32, "num_layers": LAYERS, "num_heads": 2}
    sliding = {**grouped, "head_dim": 8, "sliding_window": 8}
    del seeing["vocab_size"]
    pooled = {**size, "eos_token_id": 1}
    makers = {
        "qwen2": lambda t: t.Qwen2ForCausalLM(t.Qwen2Config(**grouped)),
        "qwen3": lambda t: t.Qwen3ForCausalLM(t.Qwen3Config(**grouped, head_dim=8)),
        "gemma2": lambda t: t.Gemma2ForCausalLM(t.Gemma2Config(**sliding)),
        "gemma3": lambda t: t.Gemma3ForCausalLM(t.Gemma3TextConfig(**sliding)),
        "gemma3_vision": lambda t: t.Gemma3Model(t.Gemma3Config(text_config=sliding, vision_config=seeing)),
        "t5": lambda t: t.T5ForConditionalGeneration(t.T5Config(**t5)),
        "t5_encoder": lambda t: t.T5EncoderModel(t.T5Config(**t5)),
        "t5gemma": lambda t: t.T5GemmaModel(t.T5GemmaConfig(encoder=sliding, decoder=sliding)),
        "clip": lambda t: t.CLIPModel(t.CLIPConfig(text_config=pooled, vision_config=seeing)),
        "clip_text": lambda t: t.CLIPTextModel(t.CLIPTextConfig(**pooled)),
    }
    return makers[kind](transformers)
