"""Imported once by the server that test children are forked from: what each of them would else do for itself."""

import gc
import os

import torch
from PIL import Image

from fluxflow_exp.report import card, facts  # noqa: F401
from fluxflow_exp.report import command as report  # noqa: F401
from fluxflow_exp.report.config_diff import shipped
from tests.helpers.blank_graphs import leave_blank

os.environ.pop("LD_PRELOAD", None)  # tests.helpers.file_faults is for the children, not for what they start
for stage in ("quickstart", "vae"):
    shipped(stage)
Image.init()
leave_blank()
# The first optimizer imports torch's compiler, which takes as long as torch itself.
torch.optim.AdamW([torch.zeros(1)])
gc.freeze()  # children share these pages, and look through what they make themselves
