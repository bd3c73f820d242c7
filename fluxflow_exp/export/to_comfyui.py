"""A folder for ComfyUI's custom_nodes: the weights, and one file with two nodes, a loader and a sampler."""

from pathlib import Path

from fluxflow_exp import files
from fluxflow_exp.errors import UserError
from fluxflow_exp.export import card
from fluxflow_exp.export.bundle import bundle
from fluxflow_exp.export.source import Source
from fluxflow_exp.models import weights

REMOTE = "fluxflow_exp.export.remote.comfyui"
# What ComfyUI itself needs (torch needs jinja2); transformers and tokenizers are for pretrained text encoders alone.
LIBRARIES = frozenset({"torch", "jinja2", "safetensors", "transformers", "tokenizers"})
USE = """\
Copy this folder into ComfyUI's `custom_nodes` and start ComfyUI again. Under "FluxFlow" there are two nodes:
*Load {folder}* and *FluxFlow sampler*, whose images go to any node that takes images. They need only what ComfyUI has:
`torch` and `safetensors`{and_transformers}; not fluxflow_exp. The same prompt, seed and options give the same picture
as `fluxflow-generate`.{inputs}"""


def write(source: Source, folder: Path, output: Path, *, licence: str | None) -> str:
    """Fill `folder`, which will be `output`; what to say of it. UserError: a part's code cannot be exported."""
    given = {f"{REMOTE}.{part.upper()}": source.target(part) for part in source.nodes}
    try:
        code = bundle(REMOTE, given=given, libraries=LIBRARIES)
    except ImportError as error:
        raise UserError(
            f"{source.path} cannot be exported to ComfyUI: {error}, which ComfyUI has not. Export it --to diffusers"
        ) from error
    print(f"Writing {', '.join(source.nodes)} ({sum(source.parameters.values()):,} parameters)")
    files.write_text(folder / "__init__.py", code)
    weights.publish(folder / "model.safetensors", source.states, source.facts_alone())
    files.write_text(folder / "README.md", card.card(source, USE, output, licence=licence, library="comfyui"))
    hint = f"{card.inputs(source.guidance)}.\n" if source.guidance.scale != 1 else ""
    return (
        f"{output} holds two nodes for ComfyUI. To use them:\n"
        f"  cp -r {output} ComfyUI/custom_nodes/\n"
        f"and start ComfyUI again: Add Node > FluxFlow.\n{hint}{card.remark(output, licence)}"
    )
