"""The nodes are what ComfyUI's interface asks for, and draw the pictures of fluxflow-generate, with torch alone."""

import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fluxflow_exp.errors import UserError
from fluxflow_exp.export.source import read
from fluxflow_exp.export.to_comfyui import write
from fluxflow_exp.models.text_to_image import TextToImage
from tests.helpers.exported import MODELS, PROMPTS, SMALL, autoencoder_kl, bert, elsewhere, generated, publish

pytestmark = pytest.mark.slow  # a process of its own, where this package is not

# Libraries of this process that the nodes do without.
WITHOUT = ("PIL", "diffusers", "transformers", "pydantic", "annotated_types", "numpy", "triton")
INPUTS = {
    "steps": 4, "seed": 7, "guidance_scale": 3.0, "guided_from": 0.2, "guided_to": 0.9, "negative_prompt": "blurred",
    "sampler": "heun", "width": 32, "height": 16, "count": 2,
}  # fmt: skip
OPTIONS = [
    "--steps", "4", "--seed", "7", "--use_cfg", "--guidance_scale", "3", "--guidance_interval", "0.2", "0.9",
    "--negative_prompt", "blurred", "--sampler", "heun", "--size", "32x16",
]  # fmt: skip
# A folder of custom_nodes is imported as ComfyUI does it, and a node is run as its executor does.
CODE = """
import importlib.util
import json
import torch

root, models, prompts, given = sys.argv[1], *map(json.loads, sys.argv[2:])


def node_classes(folder):
    spec = importlib.util.spec_from_file_location(folder.replace("/", "_"), folder + "/__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    assert module.NODE_DISPLAY_NAME_MAPPINGS.keys() == module.NODE_CLASS_MAPPINGS.keys()
    return module.NODE_CLASS_MAPPINGS


def run(node, **given):
    types = node.INPUT_TYPES()
    assert set(types) <= {"required", "optional", "hidden"} and isinstance(node.CATEGORY, str)
    known = {**types["required"], **types.get("optional", {})}
    assert types["required"].keys() <= given.keys() <= known.keys(), given.keys() ^ known.keys()
    for name, (kind, *options) in known.items():
        assert isinstance(kind, list) or kind in ("INT", "FLOAT", "STRING", "FLUXFLOW_MODEL"), name
        assert all(isinstance(each, dict) for each in options)
        if options and "default" in options[0] and name not in given:
            given[name] = options[0]["default"]
    results = getattr(node(), node.FUNCTION)(**given)
    assert isinstance(results, tuple) and len(results) == len(node.RETURN_TYPES)
    return results


for name in models:
    classes = node_classes(f"{root}/{name}/exported of {name}")
    load = classes[f"LoadFluxFlow exported of {name}"]
    assert load.RETURN_TYPES == ("FLUXFLOW_MODEL",) and classes["FluxFlowSampler"].RETURN_TYPES == ("IMAGE",)
    (model,) = run(load, device="cpu")
    images = [run(classes["FluxFlowSampler"], model=model, prompt=prompt, **given)[0] for prompt in prompts]
    assert all(image.dtype == torch.float32 and image.shape == (2, 16, 32, 3) for image in images)
    torch.save(torch.cat(images), f"{root}/{name}/images.pt")
plain = {"prompt": prompts[0], "seed": 0, "steps": 1, "guidance_scale": 1.0, "sampler": "euler", "count": 1}
(image,) = run(classes["FluxFlowSampler"], model=model, **plain)
assert image.shape == (1, 16, 16, 3), "without more it is the size of training"
(half,) = run(classes["FluxFlowSampler"], model=model, **plain, precision="bf16")
assert 0 < (half - image).abs().mean() < 0.03
print("imported", *sorted(sys.modules))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ "exported of NAME" of each model, and what its nodes in another process have drawn: NAME/images.pt."""
    root = tmp_path_factory.mktemp("comfyui")
    for name, overrides in MODELS.items():
        path = publish(root / name / "final.safetensors", name, *overrides)
        folder = root / name / f"exported of {name}"
        write(read(path), folder, folder, licence=None)
    words = (json.dumps(each) for each in (list(MODELS), PROMPTS, INPUTS))
    said = elsewhere(root / "elsewhere", CODE, str(root), *words, without=WITHOUT)
    assert {"torch", "safetensors"} <= set(said.split())
    return root


@pytest.mark.parametrize("name", MODELS)
def test_the_pictures_are_those_of_generate(root: Path, tmp_path: Path, name: str) -> None:
    paths = generated(root / name / "final.safetensors", tmp_path, *OPTIONS)
    expected = np.stack([np.asarray(Image.open(path)) for path in paths]).astype(float) / 255
    found = torch.load(root / name / "images.pt").numpy()
    assert found.shape == expected.shape
    assert 0 <= found.min() <= found.max() <= 1
    assert abs(found - expected).max() <= 2 / 255 + 1e-6
    assert expected.std() > 0.04


def test_a_pretrained_text_encoder_comes_along(tmp_path: Path) -> None:
    path = publish(tmp_path / "bert.safetensors", "tiny", *MODELS["tiny"], *bert(tmp_path / "encoder"))
    shutil.rmtree(tmp_path / "encoder")
    write(read(path), tmp_path / "node", tmp_path / "node", licence=None)
    classes = runpy.run_path(str(tmp_path / "node" / "__init__.py"))["NODE_CLASS_MAPPINGS"]
    (model,) = classes["LoadFluxFlow node"]().load("cpu")
    (images,) = classes["FluxFlowSampler"]().sample(model, PROMPTS[0], 0, 2, 1.0, "euler", 2)
    expected = TextToImage.load(path)([PROMPTS[0]] * 2, steps=2)
    assert (images.numpy() * 255).round().tolist() == np.stack([np.asarray(each) for each in expected]).tolist()


def test_what_needs_more_than_comfyui_has_is_told(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    path = publish(tmp_path / "kl.safetensors", "compact", *SMALL, *autoencoder_kl(tmp_path / "config.json"))
    with pytest.raises(UserError, match=r"cannot be exported to ComfyUI: its code needs diffusers.*--to diffusers"):
        write(read(path), tmp_path / "node", tmp_path / "node", licence=None)


def test_the_folder_is_one_file_of_code_and_weights_that_generate_here_too(root: Path) -> None:
    folder = root / "tiny" / "exported of tiny"
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "__init__.py", "model.safetensors"]
    (image,) = TextToImage.load(folder / "model.safetensors")(["a red circle"], steps=1)
    assert image.size == (16, 16)
    assert "Not stated" in (folder / "README.md").read_text(encoding="utf-8")
