"""Text encoders of every kind, saved by their real classes: each caption's embedding is its own."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from fluxflow_exp import pipeline
from fluxflow_exp.config.published import ENCODER
from fluxflow_exp.models import weights
from fluxflow_exp.models.huggingface import HuggingFaceTextEncoder
from fluxflow_exp.models.huggingface_files import decode
from fluxflow_exp.models.text_to_image import TextToImage
from tests.conftest import toy
from tests.helpers.text_encoders import KINDS, LAYERS, SAID, WIDTH, save

transformers = pytest.importorskip("transformers")
ASSETS = ("config_json", "tokenizer_json")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    return {kind: save(root / kind, kind, left=True) for kind in KINDS}


def _direct(folder: Path, kind: str, symbols: torch.Tensor) -> torch.Tensor:
    """The hidden states that transformers gives for one row of symbols."""
    if kind in ("t5", "t5_encoder"):
        model = transformers.T5EncoderModel.from_pretrained(folder)
    elif kind == "t5gemma":
        model = transformers.T5GemmaEncoderModel.from_pretrained(folder, is_encoder_decoder=False)
    elif kind.startswith("clip"):
        model = transformers.CLIPTextModel.from_pretrained(folder)
    else:
        model = transformers.AutoModel.from_pretrained(folder)
    with torch.no_grad():
        found: torch.Tensor = getattr(model.eval(), "language_model", model)(input_ids=symbols).last_hidden_state
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_an_embedding_is_the_models_own_whatever_stands_beside_the_caption(folders: dict[str, Path], kind: str) -> None:
    encoder = HuggingFaceTextEncoder(name=str(folders[kind]))
    assert encoder.width == WIDTH
    together = encoder([*SAID, ""])
    assert together.tokens.isfinite().all()
    assert together.mask.sum(1).min() >= 1
    for row, caption in enumerate([*SAID, ""]):
        (symbols, _), alone = encoder.tokenise([caption]), encoder([caption])
        count = symbols.shape[1]
        assert together.mask[row].tolist() == [index < count for index in range(together.mask.shape[1])]
        torch.testing.assert_close(alone.tokens, _direct(folders[kind], kind, symbols), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.tokens[row, :count], alone.tokens[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_weights_file_alone_builds_it_again(folders: dict[str, Path], kind: str) -> None:
    first = HuggingFaceTextEncoder(name=str(folders[kind]), dtype="bfloat16")
    state = first.state_dict()
    second = HuggingFaceTextEncoder(name="/gone", dtype="bfloat16", assets={name: state[name] for name in ASSETS})
    second.load_state_dict(state)
    assert {each.dtype for each in second.model.parameters()} == {torch.bfloat16}
    assert torch.equal(second(SAID).tokens, first(SAID).tokens)
    assert not any(name.startswith(("model.decoder", "model.vision")) for name in state)


def test_an_empty_caption_of_a_tokenizer_without_tokens_of_its_own_is_the_padding_token(
    folders: dict[str, Path],
) -> None:
    encoder = HuggingFaceTextEncoder(name=str(folders["qwen2"]))
    assert encoder.tokenizer("")["input_ids"] == []
    for captions in ([""], ["", SAID[0]]):
        symbols, mask = encoder.tokenise(captions)
        assert symbols.dtype == torch.long
        assert symbols[0, 0] == encoder.tokenizer.pad_token_id
        assert mask[0].sum() == 1


@pytest.mark.parametrize("layer", [0, 1, -2])
def test_a_hidden_layer_can_be_chosen(folders: dict[str, Path], layer: int) -> None:
    name = str(folders["qwen3"])
    encoder, last = HuggingFaceTextEncoder(name=name, layer=layer), HuggingFaceTextEncoder(name=name)
    symbols, mask = encoder.tokenise(SAID)
    states = encoder.model(input_ids=symbols, attention_mask=mask, output_hidden_states=True).hidden_states
    assert len(states) == LAYERS + 1
    assert torch.equal(encoder(SAID).tokens, states[layer])
    assert not torch.allclose(last(SAID).tokens, states[layer])


@pytest.mark.parametrize("kind", ["qwen2", "gemma3", "t5gemma", "t5", "clip"])
@pytest.mark.parametrize("length", [3, 5, 40])
def test_without_a_template_captions_are_cut_as_transformers_does(
    folders: dict[str, Path], kind: str, length: int
) -> None:
    encoder = HuggingFaceTextEncoder(name=str(folders[kind]), max_length=length)
    theirs = encoder.tokenizer(SAID, padding=True, truncation=True, max_length=length, return_tensors="pt")
    for mine, name in zip(encoder.tokenise(SAID), ("input_ids", "attention_mask"), strict=True):
        assert torch.equal(mine, theirs[name])


def test_what_a_tokenizer_file_says_of_cuts_and_padding_changes_nothing(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    plain = HuggingFaceTextEncoder(name=str(folders["qwen2"]))
    shutil.copytree(folders["qwen2"], tmp_path / "cut")
    backend = Tokenizer.from_file(str(tmp_path / "cut" / "tokenizer.json"))
    backend.enable_truncation(3)
    backend.enable_padding(direction="left", length=20)
    backend.save(str(tmp_path / "cut" / "tokenizer.json"))
    cut = HuggingFaceTextEncoder(name=str(tmp_path / "cut"))
    again = HuggingFaceTextEncoder(name="/gone", assets={name: cut.state_dict()[name] for name in ASSETS})
    for encoder in (cut, again):
        assert encoder.lengths(SAID) == plain.lengths(SAID)
        for mine, expected in zip(encoder.tokenise([*SAID, ""]), plain.tokenise([*SAID, ""]), strict=True):
            assert torch.equal(mine, expected)


def test_the_encoder_half_of_t5_is_described_as_that_of_the_whole(folders: dict[str, Path]) -> None:
    whole = transformers.T5Model.from_pretrained(folders["t5"], dtype=torch.float32).get_encoder()
    encoder = HuggingFaceTextEncoder(name=str(folders["t5"]))
    assert decode(encoder.config_json) == json.loads(whole.config.to_json_string(use_diff=False))
    assert str(encoder.model) == str(whole)


def _words(encoder: HuggingFaceTextEncoder, caption: str) -> tuple[str, str]:
    """What is read for a caption, and what of it is given on."""
    (prompt,) = encoder._prompts([caption])
    decode = encoder.tokenizer.decode
    return decode(prompt.tokens), decode(prompt.tokens[prompt.first : prompt.end])


def test_a_chat_is_the_models_own_dialogue(folders: dict[str, Path]) -> None:
    encoder = HuggingFaceTextEncoder(name=str(folders["qwen2"]), template="chat", system_prompt="Draw.", drop="before")
    after = "<|im_end|>\n<|im_start|>assistant\n"
    read, given = _words(encoder, "a red circle")
    assert read == f"<|im_start|>system\nDraw.<|im_end|>\n<|im_start|>user\na red circle{after}"
    assert given == f"a red circle{after}"
    assert _words(encoder, "")[1] == after
    gemma = HuggingFaceTextEncoder(name=str(folders["gemma3"]), template="chat")
    assert _words(gemma, "a blue square")[0].count("<bos>") == 1


def test_what_is_dropped_was_read_and_what_is_cut_is_the_end_of_the_caption(folders: dict[str, Path]) -> None:
    options = {"name": str(folders["qwen2"]), "template": "A picture of {caption}, drawn."}
    whole = HuggingFaceTextEncoder(**options)
    around = HuggingFaceTextEncoder(**options, drop="around")
    assert _words(around, SAID[0]) == (f"A picture of {SAID[0]}, drawn.", f" {SAID[0]}")
    text, kept = whole([SAID[0]]), around([SAID[0], SAID[1], ""])
    (prompt,) = around._prompts([SAID[0]])
    count = prompt.end - prompt.first
    torch.testing.assert_close(kept.tokens[0, :count], text.tokens[0, prompt.first : prompt.end], rtol=1e-4, atol=1e-5)
    assert kept.mask.sum(1).tolist() == [count, 3, 1]  # of nothing the last token, which has seen everything
    torch.testing.assert_close(kept.tokens[2, 0], whole([""]).tokens[0, -1], rtol=1e-4, atol=1e-5)
    short = HuggingFaceTextEncoder(**options, max_length=len(prompt.tokens) - 3)
    read, _ = _words(short, SAID[0])
    assert read.startswith("A picture of a red circle")
    assert read.endswith(", drawn.")
    assert len(short._prompts([SAID[0]])[0].tokens) == short.max_length
    assert short.lengths([SAID[0]]) == [len(prompt.tokens)]


def test_dropped_words_and_a_template_come_back_from_a_weights_file(folders: dict[str, Path], tmp_path: Path) -> None:
    options = {"template": "chat", "drop": "before", "max_length": 30, "layer": -2}
    first = HuggingFaceTextEncoder(name=str(folders["qwen3"]), **options)
    node = {"_target_": ENCODER, "name": "/gone", **options}
    facts = {
        "index": 1, "kind": "ema", "model": {"text_encoder": node}, "trained": {"text_encoder": "flow"},
        "text_encoder": "embed", "img_size": 32, "downscale": 8, "flow": None,
    }  # fmt: skip
    weights.publish(tmp_path / "flow.safetensors", {"text_encoder": first.state_dict()}, facts)
    second = weights.load_part(tmp_path / "flow.safetensors", "text_encoder", kind="ema")
    found, expected = second(SAID), first(SAID)
    assert torch.equal(found.mask, expected.mask)
    assert torch.equal(found.tokens, expected.tokens)


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("qwen2", {"template": "A picture."}, r"template='A picture.' must have \{caption\} in it, once, or be chat"),
        ("qwen2", {"template": "{caption} {caption}"}, "once"),
        ("qwen2", {"template": "chat", "max_length": 10}, "the template alone has .* tokens, and max_length=10 leaves"),
        ("qwen2", {"system_prompt": "Draw."}, "belongs to template=chat"),
        ("qwen2", {"layer": 4}, "has 3 layers: layer=4 is none of 0 to 3 or -4 to -1"),
        ("t5", {"template": "chat"}, r"has no chat template. Write one, template='…\{caption\}…'"),
        ("gemma2", {"template": "chat", "system_prompt": "x"}, "refuses the dialogue: System role not supported"),
    ],
)
def test_what_a_model_cannot_do_is_one_clear_error(
    folders: dict[str, Path], kind: str, options: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        HuggingFaceTextEncoder(name=str(folders[kind]), **options)


def test_folders_that_hold_no_text_encoder_are_one_clear_error(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no folder '/no/such/place' with a text encoder"):
        HuggingFaceTextEncoder(name="/no/such/place")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"folder '.*empty' lacks config.json and tokenizer.json. It must"):
        HuggingFaceTextEncoder(name=str(tmp_path / "empty"))
    picture = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders["qwen2"])
    tokenizer.save_pretrained(tmp_path / "vit")
    transformers.ViTModel(picture).save_pretrained(tmp_path / "vit")
    with pytest.raises(ValueError, match="vit' is no text encoder: a ViTModel does not read tokens"):
        HuggingFaceTextEncoder(name=str(tmp_path / "vit"))
    wrong = save(tmp_path / "wrong", "qwen2")
    (wrong / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError, match=r"folder '.*wrong' cannot be loaded: "):
        HuggingFaceTextEncoder(name=str(wrong))
    (wrong / "model.safetensors").write_bytes((folders["t5"] / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"its weights lack .* tensors of a Qwen2Model, .* another model's"):
        HuggingFaceTextEncoder(name=str(wrong))


@pytest.mark.parametrize("publish", ["embed", "reference"])
def test_a_run_on_a_chat_model_publishes_what_generates(folders: dict[str, Path], tmp_path: Path, publish: str) -> None:
    chosen = ["model/text_encoder=language_model", f"model.text_encoder.name={folders['qwen3']}", "model.text_dim=16"]
    short = [f"stage.steps.{step}.max_updates=1" for step in ("vae", "vae_gan")]
    few = ["stage.steps.flow.max_updates=2", "stage.steps.flow.batch_size=4", f"publish.text_encoder={publish}"]
    pipeline.run(toy(tmp_path, *chosen, *few, "evaluation.every_epochs=null", *short))
    final = tmp_path / "quickstart" / "weights" / "final.safetensors"
    held = weights.read_part(final, "text_encoder")
    assert {each.dtype for name, each in held.items() if name.endswith("weight")} <= {torch.bfloat16}
    assert bool(held) == (publish == "embed")
    model = TextToImage.load(final)
    (images,) = model.generate(["a red circle", ""], guidance_scale=4.0, steps=2)
    assert images.float().std() > 1  # not a number would be one colour
    assert not any(each.requires_grad for each in model.text_encoder.parameters())
