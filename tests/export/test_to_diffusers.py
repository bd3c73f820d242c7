"""A pipeline folder makes the pictures of fluxflow-generate in a process that has diffusers and nothing of ours."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fluxflow_exp.export.source import read
from fluxflow_exp.export.to_diffusers import write
from tests.helpers.exported import MODELS, PROMPTS, SMALL, autoencoder_kl, bert, elsewhere, generated, publish
from tests.helpers.packages import skip_without

pytestmark = pytest.mark.slow  # a process of its own, where this package is not

skip_without("diffusers")
NAMES = [*MODELS, "bert", "kl"]
PLAIN = ["--steps", "3"]
GUIDED = [
    "--steps", "4", "--seed", "7", "--use_cfg", "--guidance_scale", "3", "--guidance_interval", "0.2", "0.9",
    "--negative_prompt", "blurred", "--sampler", "ab2", "--size", "32x16",
]  # fmt: skip
# The same two for the pipeline.
CALLS = {
    "plain": {"num_inference_steps": 3},
    "guided": {
        "num_inference_steps": 4, "seed": 7, "guidance_scale": 3.0, "guidance_interval": [0.2, 0.9],
        "negative_prompt": "blurred", "sampler": "ab2", "width": 32, "height": 16,
    },
}  # fmt: skip
CODE = """
import json
import numpy as np
import torch
from diffusers import DiffusionPipeline

root, models, prompts, calls = sys.argv[1], *map(json.loads, sys.argv[2:])
opened = {m: DiffusionPipeline.from_pretrained(f"{root}/{m}/exported", trust_remote_code=True) for m in models}
for name, pipeline in opened.items():  # all are open: none has taken another's code
    for call, options in calls.items():
        images = pipeline(prompts, num_images_per_prompt=2, **options).images
        np.save(f"{root}/{name}/{call}.npy", np.stack([np.asarray(image) for image in images]))
pipeline = opened["tiny"]
once = {"num_inference_steps": 2, "seed": 5}
image = np.asarray(pipeline(prompts[0], **once).images[0])
(tensor,), (array,) = (pipeline(prompts[0], **once, output_type=kind).images for kind in ("pt", "np"))
assert tensor.shape == (3, 16, 16) and array.shape == (16, 16, 3) and (tensor.permute(1, 2, 0).numpy() == array).all()
assert (np.round(array * 255) == image).all()
drawn = pipeline(prompts[0], num_inference_steps=2, generator=torch.Generator().manual_seed(5), return_dict=False)
assert (np.asarray(drawn[0][0]) == image).all(), "a generator's seed is a seed"
for wrong in ({"output_type": "tensor"}, {"seed": 1, "generator": torch.Generator()}, {"width": 10}, {"sampler": "x"},
              {"negative_prompt": ["x"]}):
    try:
        pipeline(prompts[0], **wrong)
    except ValueError as error:
        print(error)
pipeline.save_pretrained(f"{root}/again", variant="mine")
again = DiffusionPipeline.from_pretrained(f"{root}/again", trust_remote_code=True, variant="mine")
assert (np.asarray(again(prompts[0], **once).images[0]) == image).all(), "what is saved again is whole"
half = DiffusionPipeline.from_pretrained(f"{root}/tiny/exported", trust_remote_code=True, dtype=torch.bfloat16)
near = np.asarray(half(prompts[0], **once).images[0]).astype(float)
assert half.dtype == torch.bfloat16 and 0 < abs(near - image).mean() < 8, abs(near - image).mean()
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NAME/exported of each model, and what the pipelines in another process have drawn: NAME/CALL.npy."""
    root = tmp_path_factory.mktemp("diffusers")
    for name, overrides in MODELS.items():
        kind = {"objective": "v_prediction"} if name == "fluxflow_silu" else {}
        path = publish(root / name / f"{name}.safetensors", name, *overrides, shift=0.7, **kind)
        write(read(path), root / name / "exported", root / name / "exported", licence="mit")
    path = publish(root / "bert" / "bert.safetensors", "tiny", *MODELS["tiny"], *bert(root / "encoder"))
    shutil.rmtree(root / "encoder")
    write(read(path), root / "bert" / "exported", root / "bert" / "exported", licence="mit")
    path = publish(root / "kl" / "kl.safetensors", "compact", *SMALL, *autoencoder_kl(root / "config.json"))
    write(read(path), root / "kl" / "exported", root / "kl" / "exported", licence="mit")
    words = (json.dumps(each) for each in (NAMES, PROMPTS, CALLS))
    said = elsewhere(root / "elsewhere", CODE, str(root), *words)
    assert said.splitlines()[0] == "output_type is pil, pt or np, not 'tensor'"
    assert len(said.splitlines()) == 5
    return root


@pytest.mark.parametrize("call", ["plain", "guided"])
@pytest.mark.parametrize("name", NAMES)
def test_the_pictures_are_those_of_generate(root: Path, tmp_path: Path, name: str, call: str) -> None:
    paths = generated(root / name / f"{name}.safetensors", tmp_path, *(PLAIN if call == "plain" else GUIDED))
    expected = np.stack([np.asarray(Image.open(path)) for path in paths]).astype(int)
    found = np.load(root / name / f"{call}.npy")
    assert found.shape == expected.shape == (4, 16, 32 if call == "guided" else 16, 3)
    assert abs(found - expected).max() <= 2
    assert expected.std() > 10, "pictures that all look the same prove nothing"
    assert abs(expected[0] - expected[1]).max() > 20


def test_the_folder_holds_components_and_a_card(root: Path) -> None:
    folder = root / "tiny" / "exported"
    index = json.loads((folder / "model_index.json").read_text())
    assert (folder / f"{index['_class_name'][0]}.py").is_file()
    for part in ("expander", "flow_processor", "text_encoder", "scheduler"):
        assert (folder / part / f"{index[part][0]}.py").is_file()
    assert json.loads((folder / "scheduler" / "scheduler_config.json").read_text())["shift"] == 0.7
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: mit\nlibrary_name: diffusers\n")
    assert f'from_pretrained("{folder.name}", trust_remote_code=True)' in card
    assert "Unknown: the weights were exported without the run" in card
    assert "`encoder` are in this folder, under their own" in (root / "bert" / "exported" / "README.md").read_text()
