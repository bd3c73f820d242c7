"""A pipeline folder for diffusers: one folder a component with its configuration, weights and code, and the pipeline.

`DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True)` finds the code by what model_index.json says, a
component's `["FILE", "CLASS"]` in the component's folder. It brings all of it into one place by the file's name, so
that each name ends with a part of the digest of what is in it: no two models take each other's.
"""

import hashlib
from pathlib import Path
from typing import Any

from fluxflow_exp import files
from fluxflow_exp.errors import UserError
from fluxflow_exp.export import card
from fluxflow_exp.export.bundle import attributes, bundle
from fluxflow_exp.export.source import Source
from fluxflow_exp.models import tensor_files

REMOTE = "fluxflow_exp.export.remote"
USE = """\
```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("{folder}", trust_remote_code=True)
pipeline("{prompt}", num_inference_steps=50{guidance}, seed=0).images[0].save("picture.png")
```

It takes `torch`, `diffusers`{and_transformers}, and not fluxflow_exp. Options: `height`, `width`, `negative_prompt`,
`guidance_interval=(low, high)`, `num_images_per_prompt`, `sampler` (`euler`, `heun`, `ab2`), `shift`, `seed` or
`generator`, `output_type`. With `dtype=torch.bfloat16` in `from_pretrained` it computes in bfloat16. The same options
give the same picture as `fluxflow-generate`."""


def write(source: Source, folder: Path, output: Path, *, licence: str | None) -> str:
    """Fill `folder`, which will be `output`; what to say of it. UserError: a part's code cannot be exported."""
    pipeline = bundle(f"{REMOTE}.pipeline")
    flow, called = source.facts["flow"], attributes(pipeline)
    index: dict[str, Any] = {"_class_name": [_add(folder, "pipeline", pipeline), "FluxFlowPipeline"]}
    for part in source.nodes:
        print(f"Writing {part} ({source.parameters[part]:,} parameters)")
        index[part] = [_write_part(source, part, folder / part, called), "FluxFlowPart"]
    scheduler = bundle(f"{REMOTE}.scheduler", called=called)
    settings = {"objective": flow["objective"], "shift": flow["shift"]}
    index["scheduler"] = [_add(folder / "scheduler", "scheduler", scheduler), "FluxFlowScheduler"]
    files.write_json(folder / "scheduler" / "scheduler_config.json", {"_class_name": "FluxFlowScheduler", **settings})
    index |= {key: source.facts[key] for key in ("img_size", "downscale")}
    index["trained_with_dropout"] = flow["cfg_dropout_prob"] > 0
    files.write_json(folder / "model_index.json", index)
    files.write_text(folder / "README.md", card.card(source, USE, output, licence=licence, library="diffusers"))
    return (
        f"{output} is a pipeline for diffusers. In Python:\n"
        f"  from diffusers import DiffusionPipeline\n"
        f"  pipeline = DiffusionPipeline.from_pretrained({str(output)!r}, trust_remote_code=True)\n"
        f'  pipeline("a prompt"{card.arguments(source.guidance)}, seed=0).images[0].save("picture.png")\n'
        f"{card.remark(output, licence)}"
    )


def _write_part(source: Source, part: str, folder: Path, called: set[str]) -> str:
    """A component's folder; the name of its code."""
    try:
        code = bundle(f"{REMOTE}.part", given={f"{REMOTE}.part.PART": source.target(part)}, called=called)
    except ImportError as error:
        raise UserError(f"{source.path}: its {part} ({source.target(part)}) cannot be exported: {error}") from error
    name = _add(folder, part, code)
    files.write_json(folder / "config.json", {"_class_name": "FluxFlowPart", "arguments": source.arguments(part)})
    tensors = {f"part.{key}": tensor.contiguous().clone() for key, tensor in source.states[part].items()}
    tensor_files.write(folder / "diffusion_pytorch_model.safetensors", tensors, {"format": "pt"})
    return name


def _add(folder: Path, name: str, code: str) -> str:
    name = f"{name}_{hashlib.sha256(code.encode()).hexdigest()[:8]}"
    files.write_text(folder / f"{name}.py", code)
    return name
