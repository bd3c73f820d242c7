"""`python -m fluxflow_exp.convert`: weights and configurations of FluxFlow, autoencoders for diffusers."""

import argparse
from pathlib import Path

from fluxflow_exp.convert import config
from fluxflow_exp.run import failures


@failures.command
def cli() -> None:
    arguments = parser().parse_args()
    if arguments.what == "weights":
        from fluxflow_exp.convert import weights  # torch, which --help does without

        lines = weights.convert(arguments.source, arguments.output, to=arguments.to)
    elif arguments.what == "autoencoder":
        from fluxflow_exp.convert import autoencoder

        lines = autoencoder.convert(arguments.source, arguments.output, scaling_factor=arguments.scaling_factor)
    else:
        lines = config.convert(
            arguments.source, arguments.output, text_encoder=arguments.text_encoder, model=arguments.model
        )
    print("\n".join(lines))


def parser() -> argparse.ArgumentParser:
    shape = argparse.ArgumentDefaultsHelpFormatter
    made = argparse.ArgumentParser(
        prog="python -m fluxflow_exp.convert",
        description="Bring FluxFlow weights and YAML along, or take weights back; or an autoencoder to diffusers.",
    )
    kinds = made.add_subparsers(dest="what", required=True)
    text = "FluxFlow 0.3 compressor and expander, to and from this project's files"
    weights = kinds.add_parser("weights", help=text, description=text, formatter_class=shape)
    weights.add_argument(
        "source", type=Path, metavar="IN", help="their file or output folder; or a run or file of ours"
    )
    weights.add_argument("output", type=Path, metavar="OUT", help="file to write (.safetensors)")
    weights.add_argument("--to", choices=("ours", "fluxflow"), required=True, help="whose form OUT has")
    text = "An autoencoder of model/autoencoder=diffusers, to a folder that from_pretrained loads"
    vae = kinds.add_parser("autoencoder", help=text, description=text, formatter_class=shape)
    vae.add_argument("source", type=Path, metavar="IN", help="a run or file of ours")
    vae.add_argument("output", type=Path, metavar="OUT", help="folder to write")
    vae.add_argument(
        "--scaling_factor", type=float, metavar="X", help="one over the deviation of its latents, for its config.json"
    )
    text = "A YAML of FluxFlow Training becomes a stage file"
    config = kinds.add_parser("config", help=text, description=text, formatter_class=shape)
    config.add_argument("source", type=Path, metavar="IN", help="flat or training.pipeline.steps YAML")
    config.add_argument("output", type=Path, metavar="OUT", help="FOLDER/stage/NAME.yaml")
    config.add_argument(
        "--text-encoder", metavar="byte|FOLDER", help="byte-level, or the folder of a Hugging Face encoder; "
        "by default pretrained_bert_model of IN, else byte",
    )  # fmt: skip
    config.add_argument(
        "--model", choices=("fluxflow", "compact", "tiny"), default="fluxflow", help="architecture of the autoencoder"
    )
    return made
