"""ST-LPIPS of the held-out reconstructions of runs, beside the numbers of `fluxflow_exp.evaluate`.

    python docs/studies/bezier/st_lpips.py RUN…

Ghildyal and Liu 2022, "Shift-Tolerant Perceptual Similarity Metric", with AlexNet: the package stlpips-pytorch 0.0.2
(it needs torchsummary and ipython) carries its trained weights, where those of LPIPS have to be fetched.
"""

import argparse
from importlib.metadata import version
from pathlib import Path

import torch
from stlpips_pytorch import stlpips

from fluxflow_exp.evaluation import digests, record
from fluxflow_exp.evaluation.held_out import HeldOut, data_of
from fluxflow_exp.evaluation.published_model import AUTOENCODER, Subject
from fluxflow_exp.evaluation.record import Record

NAME = "st_lpips"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = stlpips.LPIPS(net="alex", variant="shift_tolerant", verbose=False).to(device).eval()
    features = {"name": "st-lpips alex", "digest": digests.of_tensors(network.state_dict())}
    for run in parser.parse_args().runs:
        subject = Subject(run)
        found = measure(subject, network, features, device)
        assert subject.run is not None
        record.write(subject.run.path / record.FOLDER / f"{subject.name}.json", subject.file, [found])
        print(f"{found.value:.4f} {run}", flush=True)


@torch.no_grad()
def measure(subject: Subject, network: torch.nn.Module, features: dict[str, str], device: torch.device) -> Record:
    step = subject.step("expander")
    held_out = HeldOut(data_of(subject.values, step, []), count=256)
    parts = subject.load(AUTOENCODER, device)
    values = []
    for batch in held_out.batches("Reconstructing"):
        images = batch.images.to(device).float() / 127.5 - 1
        made = parts["expander"](parts["compressor"](images).mode(), False).float().clamp(-1, 1)
        values.append(network(made, images).flatten().cpu())
    return Record(
        metric=NAME,
        value=float(torch.cat(values).mean()),
        unit=None,
        lower_is_better=True,
        step=step,
        update=subject.update(step),
        ema=True,
        n=len(held_out),
        seed=None,
        guidance=None,
        img_size=held_out.data.img_size,
        implementation=f"stlpips-pytorch {version('stlpips-pytorch')}",
        features=features,
        weights_digest=parts.digest,
        reference_digest=held_out.images_digest,
        sampler=None,
        precision="fp32",
        device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        data=[],
    )


if __name__ == "__main__":
    main()
