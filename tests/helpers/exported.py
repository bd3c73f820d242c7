"""Published models without training, and Python processes that know nothing of this package."""

import json
import site
import subprocess
import sys
from pathlib import Path

import torch

from fluxflow_exp.config.compose import instantiate, resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.generate.command import parser
from fluxflow_exp.generate.drawing import generate
from fluxflow_exp.models import weights

NOTHING_OF_OURS = ("fluxflow", "_editable_impl_fluxflow", "hydra", "omegaconf")
ABSENT = """
try:
    import {0}
except ImportError:
    pass
else:
    raise SystemExit("{0} is here")
"""
PROMPTS = ["a red circle", "ein grüner Stern 🎈"]
SMALL = ["model.text_dim=32", *(f"model.flow_processor.{key}" for key in ("width=32", "depth=3", "heads=2"))]
COMPACT = [*SMALL, "model.vae_dim=4", "model.compressor.widths=[8,16]", "model.compressor.blocks=1"]
FLUXFLOW = [*SMALL, "model.vae_dim=8", "model.compressor.downscales=2"]
EVERY = [f"+model.flow_processor.{key}=true" for key in ("value_residual", "absolute_positions")]
# What is published, in small: model → the overrides of its size.
MODELS = {
    "tiny": COMPACT,
    "compact": [*COMPACT, "model.spade=true", *EVERY],
    "compact_f8": COMPACT,
    "fluxflow": [*FLUXFLOW, "model.spade=true"],
    "fluxflow_silu": FLUXFLOW,
}


def bert(folder: Path) -> list[str]:
    """The overrides of a small BERT in a template, whose files are then in `folder`."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[PAD]", "[UNK]", "a", "red", "circle", "ein", "Stern", "blurred"]
    backend = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]").save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    transformers.BertModel(transformers.BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
    options = {"name": folder, "layer": -2, "template": "'a red {caption}'", "drop": "before", "dtype": "bfloat16"}
    return [
        "model/text_encoder=huggingface",
        *(f"++model.text_encoder.{key}={value}" for key, value in options.items()),
    ]


def autoencoder_kl(path: Path) -> list[str]:
    """The overrides of a small AutoencoderKL of diffusers, whose configuration is then in `path`."""
    config = {
        "_class_name": "AutoencoderKL", "block_out_channels": [8, 8], "latent_channels": 4, "norm_num_groups": 4,
        "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
    }  # fmt: skip
    path.write_text(json.dumps(config))
    return ["model/autoencoder=diffusers", f"model.autoencoder.config={path}"]


PARTS = ("compressor", "expander", "flow_processor", "text_encoder")


def publish(
    path: Path,
    model: str,
    *overrides: str,
    objective: str = "rectified_flow",
    shift: float = 1.0,
    parts: tuple[str, ...] = PARTS,
) -> Path:
    """A `final.safetensors` of random weights, none of them zero."""
    values = resolve(compose_config([f"model={model}", *overrides]))["model"]
    states, downscale = {}, 0
    for part in parts:
        module = instantiate(values[part])
        torch.manual_seed(0)  # here: what a module draws for itself is its own affair
        for parameter in module.parameters():
            if parameter.requires_grad:  # a pretrained encoder stays what it is
                torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.3)
        states[part] = module.state_dict()
        downscale = downscale or module.downscale  # the compressor's
    if "flow_processor" in states:
        states["flow_processor"]["latent_mean"].normal_()
    facts = {
        "index": 1, "kind": "ema", "model": values, "trained": dict.fromkeys(states, "flow"), "text_encoder": "embed",
        "img_size": 16, "downscale": downscale,
        "flow": {"objective": objective, "shift": shift, "cfg_dropout_prob": 0.1},
    }  # fmt: skip
    weights.publish(path, states, facts)
    return path


def generated(model: Path, folder: Path, *options: str) -> list[Path]:
    """Pictures of fluxflow-generate, two of each of PROMPTS, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    words = ["--model_checkpoint", str(model), "--text_prompts_path", str(folder / "prompts.txt")]
    words += ["--output_path", str(folder / "out"), "--format", "png", "--n_per_prompt", "2", "--device", "cpu"]
    generate(parser().parse_args([*words, *options]))
    return sorted((folder / "out").iterdir())


def elsewhere(folder: Path, code: str, *words: str, without: tuple[str, ...] = ()) -> str:
    """What `code` prints in a process that has the libraries of this one but this package, Hydra and `without`."""
    libraries = folder / "libraries"
    libraries.mkdir(parents=True)
    for each in Path(site.getsitepackages()[0]).iterdir():
        if not each.name.startswith((*NOTHING_OF_OURS, *without)) and each.suffix != ".pth":
            (libraries / each.name).symlink_to(each)
    absent = "".join(ABSENT.format(name) for name in ("fluxflow_exp", "hydra", *without))
    start = f"import sys\nsys.dont_write_bytecode = True\nsys.path.append({str(libraries)!r}){absent}\n"
    environment = {"HF_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", start + code, *words],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
