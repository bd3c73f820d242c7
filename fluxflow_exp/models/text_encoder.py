"""Text to tokens: a small byte-level encoder trained from scratch."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fluxflow_exp.config.bounds import NonNegativeInt, PositiveInt
from fluxflow_exp.models.layers import ActivationName, make_activation, to_device

START, PADDING, SYMBOLS = 256, 257, 258
TEXT_STEP = 32
BASE, PRIME = 1_103_515_245, 2**31 - 1  # of the n-grams' hash: products stay below 2⁶³


class Text(NamedTuple):
    tokens: Tensor  # (batch, length, width)
    mask: Tensor  # (batch, length) bool, True where a token stands


def padded(text: Text) -> Text:
    """Masked tokens up to a multiple of TEXT_STEP: few lengths to compile, and aligned masks for fast attention."""
    more = -text.tokens.shape[1] % TEXT_STEP
    return Text(F.pad(text.tokens, (0, 0, 0, more)), F.pad(text.mask, (0, more))) if more else text


class ByteTextEncoder(nn.Module):
    """UTF-8 bytes behind a start token → Text of `width`. The empty caption is the start token alone.

    A strided convolution spells `bytes_per_token` bytes and their neighbours into one token before the transformer
    relates tokens. Captions are cut at `max_length` bytes and padded to the longest of the call; padding does not
    reach valid tokens. `ngrams=[3, 5, 8]` adds to each byte a learned vector for each of the last 3, 5 and 8 bytes
    together, found by their hash among `ngram_slots` (Pagnoni et al. 2024, Byte Latent Transformer, section 3.2.1):
    a word that is read often need not be spelt.
    """

    pretrained = False
    unit = "bytes"

    def __init__(
        self,
        *,
        width: PositiveInt,
        depth: NonNegativeInt = 2,
        heads: PositiveInt = 4,
        max_length: PositiveInt = 256,
        bytes_per_token: PositiveInt = 1,
        activation: ActivationName = "gelu",
        ngrams: Sequence[PositiveInt] = (),
        ngram_slots: PositiveInt = 32768,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width={width} must be a multiple of heads={heads}")
        self.width = width
        self.max_length, self.stride = max_length, bytes_per_token
        self.bytes = nn.Embedding(SYMBOLS, width)
        self.ngrams = NgramEmbedding(ngrams, ngram_slots, width) if ngrams else None
        self.position = nn.Parameter(nn.init.normal_(torch.empty(max_length + 1, width), std=0.02))
        self.spell = nn.Conv1d(
            width, width, 2 * bytes_per_token + 3, stride=bytes_per_token, padding=bytes_per_token + 1
        )
        self.blocks = nn.ModuleList(_Block(width, heads, activation) for _ in range(depth))
        self.norm = nn.RMSNorm(width, eps=1e-6)

    def forward(self, captions: list[str]) -> Text:
        return self.encode(*self.tokenise(captions))

    def tokenise(self, captions: list[str]) -> tuple[Tensor, ...]:
        """Return the arguments of `encode`, on the device: symbols (batch, length)."""
        device = self.position.device
        rows = [[START, *caption.encode()[: self.max_length]] for caption in captions]
        longest = max(len(row) for row in rows)
        if device.type == "cuda":  # few lengths to compile
            step = TEXT_STEP * self.stride
            longest = min(-(-longest // step) * step, self.max_length + 1)
        return (to_device(torch.tensor([row + [PADDING] * (longest - len(row)) for row in rows]), device),)

    def lengths(self, captions: list[str]) -> list[int]:
        """How many bytes each caption has; those after `max_length` are not read."""
        return [len(caption.encode()) for caption in captions]

    def encode(self, symbols: Tensor) -> Text:
        valid = symbols != PADDING
        x = self.bytes(symbols) + self.position[: symbols.shape[1]]
        if self.ngrams is not None:
            x = x + self.ngrams(symbols)
        x = x * valid[..., None]
        x = F.gelu(self.spell(x.transpose(1, 2)).transpose(1, 2)) + x[:, :: self.stride]
        mask = valid[:, :: self.stride]
        for block in self.blocks:
            x = block(x, mask[:, None, None, :])
        return Text(self.norm(x) * mask[..., None], mask)


class NgramEmbedding(nn.Module):
    """Symbols (batch, length) → (batch, length, width): the mean of vectors for the n last symbols, for each n.

    An n-gram's slot is its polynomial hash, symbols as digits of base BASE modulo PRIME (Karp & Rabin 1987), modulo
    `slots`; n-grams that share one are told apart by what stands around them.
    """

    def __init__(self, sizes: Sequence[int], slots: int, width: int) -> None:
        super().__init__()
        self.sizes, self.slots = tuple(sizes), slots
        self.vectors = nn.Embedding(slots, width)

    def forward(self, symbols: Tensor) -> Tensor:
        before = F.pad(symbols, (max(self.sizes) - 1, 0), value=PADDING)
        length, key, found = symbols.shape[1], torch.zeros_like(symbols), []
        for n in range(1, max(self.sizes) + 1):
            start = before.shape[1] - length - n + 1
            key = (key * BASE + before[:, start : start + length] + 1) % PRIME
            if n in self.sizes:
                found.append(key % self.slots)
        vectors: Tensor = self.vectors(torch.stack(found)).mean(0)
        return vectors


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, activation: ActivationName) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        act, expansion = make_activation(activation, dim=-1)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width * expansion), act, nn.Linear(2 * width, width))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        parts = self.query_key_value(self.norm1(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        updated: Tensor = x + self.mlp(self.norm2(x))
        return updated
