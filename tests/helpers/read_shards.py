"""Reads shards as one rank of two with three workers, slowly; appends each batch's ids to a log."""

import json
import sys
import time
from pathlib import Path

from fluxflow_exp.data.loader import load_batches
from fluxflow_exp.data.webdataset import WebDataset

folder, rank, log, total = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
data = WebDataset(urls=f"{folder}/train-{{000..006}}.tar", img_size=16)
done = len(log.read_text().splitlines())
for batch in load_batches(
    data.train, seed=1, batch_size=4, first_update=done, last_update=total, num_workers=3, pin_memory=False,
    rank=rank, ranks=2,
):  # fmt: skip
    with log.open("a") as file:
        file.write(json.dumps(batch.ids) + "\n")
    time.sleep(0.3)
