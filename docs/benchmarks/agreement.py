"""model=fluxflow as a GPU computes it (bf16, own kernels) against the plain float32 implementation on a CPU.

    python docs/benchmarks/agreement.py EMOJI --device cpu  --json cpu.json        plain layers of torch, float32
    python docs/benchmarks/agreement.py EMOJI --device cuda --json gpu.json        bf16, and gradients against the CPU's

Both train the same initial weights on the same 32 × 32 images of the emoji set with the same posterior noise, batch 4,
AdamW at 1e-4, L1 + MSE + 1e-4 KL, SPADE on, for 200 updates. `--device cuda` also computes the gradients of the first
update on the CPU in float32, and reports for each kind of layer ‖difference‖ / ‖gradient‖.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fluxflow_exp.config.compose import instantiate, resolve, typed
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.data.build import build_data
from fluxflow_exp.data.reading import read_all
from fluxflow_exp.losses.kl import KL
from fluxflow_exp.losses.reconstruction import Reconstruction
from fluxflow_exp.machine.hardware import prepare

BATCH, UPDATES, SIZE = 4, 200, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("emoji", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--updates", type=int, default=UPDATES)
    options = parser.parse_args()
    images = load(options.emoji)
    found: dict[str, Any] = {"device": options.device, "torch": torch.__version__}
    if options.device == "cuda":
        found["gradients"] = compare(gradients("cpu", images), gradients("cuda", images))
        for name, error in found["gradients"].items():
            print(f"{error:.2e}  {name}")
    for losses in train(options.device, images, options.updates):  # a lease may end before the last
        if options.json:
            options.json.write_text(json.dumps({**found, "losses": losses}, indent=1))


def load(emoji: Path) -> Tensor:
    """(BATCH × UPDATES, 3, SIZE, SIZE) uint8, the training images over and over."""
    overrides = ["data=image_folder", f"data.data_path={emoji / 'images'}", f"data.img_size={SIZE}", "stage=vae"]
    overrides += [f"data.captions_file={emoji / 'captions.tsv'}", "tracking=off"]
    data = build_data(typed(resolve(compose_config(overrides))))["vae"]
    images = read_all(data.train, range(800), seed=0).images
    return images[torch.arange(BATCH * UPDATES) % len(images)]


def build(device: str) -> tuple[Any, torch.nn.Module, torch.nn.Module]:
    hardware = "cpu" if device == "cpu" else "auto"
    config = typed(resolve(compose_config(["model=fluxflow", "stage=vae_gan_spade", f"hardware={hardware}"])))
    machine = prepare(config.hardware)
    torch.manual_seed(0)
    parts = [instantiate(node) for node in (config.model.compressor, config.model.expander)]
    for part in parts:
        machine.place(part)
    return machine, *parts


def loss(machine: Any, compressor: Any, expander: Any, images: Tensor, update: int) -> Tensor:
    there = images.to(machine.device).to(torch.float32, memory_format=machine.memory_format) / 127.5 - 1
    noise = torch.randn(BATCH, 128, SIZE // 16, SIZE // 16, generator=torch.Generator().manual_seed(update))
    with machine.autocast():
        posterior = compressor(there)
        made = expander(posterior.sample(noise.to(machine.device)), True)
        terms = Reconstruction(l1=1.0, mse=1.0)(made, there) | KL()(posterior.mean, posterior.logvar)
    return terms["l1"].mean() + terms["mse"].mean() + 1e-4 * terms["kl"].mean()


def gradients(device: str, images: Tensor) -> dict[str, Tensor]:
    machine, compressor, expander = build(device)
    loss(machine, compressor, expander, images[:BATCH], 0).backward()
    named = [*compressor.named_parameters(prefix="compressor"), *expander.named_parameters(prefix="expander")]
    return {name: p.grad.detach().cpu().double() for name, p in named if p.grad is not None}


def compare(right: dict[str, Tensor], found: dict[str, Tensor]) -> dict[str, float]:
    """‖found - right‖ / ‖right‖ over all tensors of a kind, and over everything."""
    assert right.keys() == found.keys()
    kinds: dict[str, list[str]] = {"everything": list(right)}
    for name in right:
        kinds.setdefault(".".join(p for p in name.split(".") if not p.isdigit()), []).append(name)
    errors = {}
    for kind, names in kinds.items():
        difference = sum(float((found[n] - right[n]).square().sum()) for n in names)
        errors[kind] = (difference / sum(float(right[n].square().sum()) for n in names)) ** 0.5
    return errors


def train(device: str, images: Tensor, updates: int) -> Iterator[list[float]]:
    """The losses so far, now and then."""
    machine, compressor, expander = build(device)
    optimizer = torch.optim.AdamW([*compressor.parameters(), *expander.parameters()], lr=1e-4, fused=True)
    losses = []
    for update in range(updates):
        value = loss(machine, compressor, expander, images[BATCH * update : BATCH * (update + 1)], update)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.detach())
        if update % 20 == 0 or update == updates - 1:
            print(f"{device} update {update}: {float(value):.4f}", flush=True)
            yield torch.stack(losses).tolist()


if __name__ == "__main__":
    main()
