"""Small networks with random weights, saved as their libraries read them."""

from pathlib import Path

import torch

WORDS = ["[PAD]", "[UNK]", "<s>", "</s>", "a", "red", "circle", "blue", "square", "on", "ground"]


def small_timm(folder: Path, seed: int = 0) -> Path:
    import timm
    from timm.models import save_for_hf

    torch.manual_seed(seed)
    save_for_hf(timm.create_model("test_resnet", pretrained=False), folder, safe_serialization=True)
    return folder


def tiny_clip(folder: Path, seed: int = 0) -> Path:
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", eos_token="</s>")
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    transformers.CLIPProcessor(images, tokenizer).save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = {**sizes, "vocab_size": len(WORDS), "eos_token_id": 3, "bos_token_id": 2, "max_position_embeddings": 16}
    torch.manual_seed(seed)
    config = transformers.CLIPConfig(
        text_config=text, vision_config={**sizes, "image_size": 32, "patch_size": 8}, projection_dim=8
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    return folder
