"""Tokens of captions that came lately: for data whose captions are not known before they are read.

A stream, or a set that gives a picture another caption each time, has no list of captions to be encoded beforehand.
The least recently used make room for new ones within a fixed number of bytes, in memory or in a file on a disk.
"""

from __future__ import annotations

import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fluxflow_exp.data.token_formats import form_of, packed_each, unpacked
from fluxflow_exp.errors import UserError
from fluxflow_exp.models.layers import to_device
from fluxflow_exp.models.text_encoder import Text
from fluxflow_exp.trainers.context import StepContext


def recent_texts(setup: StepContext) -> RecentTexts | None:
    """What cache.recent_gib asks for of a step's frozen text encoder; None: nothing."""
    asked, machine = setup.caching, setup.machine
    if asked.recent_gib is None:
        return None
    text_encoder = setup.parts["text_encoder"]

    def encode(captions: list[str]) -> Text:
        with machine.autocast():
            found: Text = text_encoder(captions)
        return found

    return RecentTexts(
        encode,
        room=int(asked.recent_gib * 2**30),
        form=form_of(asked.text_dtype, machine.precision),
        device=machine.device,
        alone=machine.exact,
        folder=Path(str(asked.path)) if asked.recent_on == "disk" else None,
    )


class RecentTexts:
    """Captions → Text on `device`, by `encode` where they are not among the last `room` bytes of them.

    `alone`: a caption is encoded by itself, so that its tokens are the same bits whatever came before; otherwise new
    ones of a call are encoded together. `folder` is on the disk that has the bytes; None: memory has.
    UserError: the room is not there, or does not hold a caption.
    """

    def __init__(
        self,
        encode: Callable[[list[str]], Text],
        *,
        room: int,
        form: str,
        device: torch.device,
        alone: bool,
        folder: Path | None = None,
    ) -> None:
        self.encode, self.form, self.device, self.alone = encode, form, device, alone
        empty = self._encoded([""])[0]
        self.row_shape, self.dtype = empty.shape[1:], empty.dtype
        row = empty[0].numel() * empty.element_size()
        self.count = room // row
        if self.count < len(empty):
            raise UserError(f"cache.recent_gib is {room} bytes: a token has {row}. Give it more, or null")
        self.rows = torch.from_numpy(_reserved(self.count, row, folder))
        self.places: OrderedDict[str, NDArray[np.int64]] = OrderedDict()  # caption → its rows; the latest last
        self.unused = 0  # rows from here on were never written to
        self.spare = np.empty(0, np.int64)  # rows of captions that have left

    def __call__(self, captions: list[str]) -> Text:
        found = self._found(captions)
        lengths = torch.tensor([len(each) for each in found])
        together = torch.nn.utils.rnn.pad_sequence(found, batch_first=True)
        mask = torch.arange(together.shape[1]) < lengths[:, None]
        return Text(unpacked(to_device(together, self.device)), to_device(mask, self.device))

    def _found(self, captions: list[str]) -> list[Tensor]:
        """Tokens of each caption as they are kept, (own length, …)."""
        new = [caption for caption in dict.fromkeys(captions) if caption not in self.places]
        # Before any of them makes another one leave.
        known = {caption: self._read(caption) for caption in dict.fromkeys(captions) if caption in self.places}
        parts = [[caption] for caption in new] if self.alone else [new] if new else []
        for part in parts:
            known |= dict(zip(part, self._encoded(part), strict=True))
        for caption in new:
            self._keep(caption, known[caption])
        return [known[caption] for caption in captions]

    @torch.no_grad()
    def _encoded(self, captions: list[str]) -> list[Tensor]:
        text = self.encode(captions)
        return packed_each(text.tokens, text.mask, self.form, captions)

    def _read(self, caption: str) -> Tensor:
        self.places.move_to_end(caption)
        return self.rows[self.places[caption]].view(self.dtype).reshape(-1, *self.row_shape)

    def _keep(self, caption: str, tokens: Tensor) -> None:
        if len(tokens) > self.count:
            return
        places = self._free(len(tokens))
        self.rows[places] = tokens.contiguous().reshape(len(tokens), -1).view(torch.uint8)
        self.places[caption] = places

    def _free(self, wanted: int) -> NDArray[np.int64]:
        """Rows to write to; the captions that came least recently leave."""
        if self.unused + wanted <= self.count:
            self.unused += wanted
            return np.arange(self.unused - wanted, self.unused)
        while len(self.spare) < wanted:
            _, places = self.places.popitem(last=False)
            self.spare = np.concatenate([self.spare, places])
        taken, self.spare = self.spare[:wanted], self.spare[wanted:]
        return taken


def _reserved(count: int, row: int, folder: Path | None) -> NDArray[np.uint8]:
    """Bytes (count, row). UserError: a disk has not the room."""
    if folder is None:
        return np.empty((count, row), np.uint8)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Without a name: whatever ends the process, the disk has its room back.
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, count * row)
            return np.memmap(file, np.uint8, "r+", shape=(count, row))
    except OSError as error:
        raise UserError(
            f"cache.recent_gib: {folder} does not take {count * row / 2**30:.3g} GiB ({error}): ask for less, set "
            "cache.path to another disk, or cache.recent_on=memory"
        ) from error
