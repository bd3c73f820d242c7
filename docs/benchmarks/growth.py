"""How an update's time and memory grow with image size and micro-batch: model=fluxflow, VAE + GAN, batch 8.

    python docs/benchmarks/growth.py OUT.jsonl [OVERRIDES…]        on a GPU; a line a configuration

Not compiled (hardware.compile=false), so that no shape has to wait for kernels. The lines are those of plan.py's
--measure, which --compare sets beside the predictions.
"""

import json
import sys
from pathlib import Path

import torch
from plan import measure_or_fail, overrides_of

SIZES, MICRO_BATCHES, BATCH = (256, 512, 1024), (1, 2, 4, 8), 8


def main() -> None:
    out, more = Path(sys.argv[1]), sys.argv[2:]
    for size in SIZES:
        for micro in MICRO_BATCHES:
            chosen = f"hardware.compile=false hardware.micro_batch.autoencoder={micro}"
            overrides = overrides_of("fluxflow", "vae_gan", size, BATCH, chosen)
            row = {"overrides": overrides, "with": more, "gpu": torch.cuda.get_device_name()}
            row |= {"torch": torch.__version__, "size": size, "micro_batch": micro}
            row |= measure_or_fail("vae_gan", [*overrides, *more])
            if "seconds" in row:
                row["images_per_second"] = BATCH / row["seconds"]
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(
                {k: v for k, v in row.items() if k in ("size", "micro_batch", "peak_gib", "images_per_second")},
                flush=True,
            )


if __name__ == "__main__":
    main()
