"""The byte-level encoder."""

import pytest
import torch

from fluxflow_exp.models.text_encoder import BASE, PADDING, PRIME, START, ByteTextEncoder, NgramEmbedding


def encoder(stride=1):
    torch.manual_seed(0)
    return ByteTextEncoder(width=16, depth=2, heads=2, max_length=24, bytes_per_token=stride).eval()


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_padding_does_not_reach_valid_tokens(stride):
    model = encoder(stride)
    alone, padded = model(["a red circle"]), model(["a red circle", "a much longer caption"])
    count = int(alone.mask.sum())
    assert padded.mask[0].sum() == count
    torch.testing.assert_close(padded.tokens[0, :count], alone.tokens[0, :count])
    assert padded.tokens[0, count:].abs().max() == 0


@pytest.mark.parametrize("stride", [1, 4])
def test_the_empty_caption_is_one_finite_token(stride):
    text = encoder(stride)(["", "words"])
    assert text.mask[0].tolist()[:1] == [True]
    assert text.mask[0].sum() == 1
    assert text.tokens.isfinite().all()


def test_captions_differ_by_any_byte_and_by_order():
    tokens = encoder()(["ab", "ba", "ac", "äb"]).tokens[:, :3]
    for i in range(4):
        for j in range(i):
            assert (tokens[i] - tokens[j]).abs().max() > 1e-3


def test_long_captions_are_cut():
    text = encoder()(["x" * 500])
    assert text.tokens.shape == (1, 25, 16)


def by_hand(symbols, position, n, slots):
    """The slot of the last n symbols up to `position`, in unbounded integers; before the first stands padding."""
    key = 0
    for k in range(n):
        symbol = symbols[position - k] if position >= k else PADDING
        key = key * BASE + symbol + 1
    return key % PRIME % slots


def test_a_byte_has_the_mean_of_the_vectors_of_the_last_n_bytes():
    torch.manual_seed(0)
    ngrams = NgramEmbedding([1, 3, 8], 101, 4)
    symbols = [START, *b"a cat, a cat"]
    for i, vector in enumerate(ngrams(torch.tensor([symbols]))[0]):
        slots = [by_hand(symbols, i, n, 101) for n in (1, 3, 8)]
        torch.testing.assert_close(vector, ngrams.vectors.weight[slots].mean(0))


def test_ngrams_share_slots_no_more_than_chance():
    symbols = torch.randint(97, 123, (64, 256), generator=torch.Generator().manual_seed(0))
    ngrams, slots = NgramEmbedding([5], 4096, 4), []
    ngrams.vectors.forward = lambda found: slots.append(found) or torch.zeros(*found.shape, 4)
    ngrams(symbols)
    different = 64 * 256  # of 26⁵ none is met twice, but for some
    expected = 4096 * (1 - (1 - 1 / 4096) ** different)
    assert len(slots[0].unique()) == pytest.approx(expected, rel=0.02)


def test_ngrams_keep_padding_out_and_are_trained():
    torch.manual_seed(0)
    model = ByteTextEncoder(width=16, heads=2, max_length=24, bytes_per_token=2, ngrams=[3, 5], ngram_slots=64)
    alone, padded = model(["a red circle"]), model(["a red circle", "a much longer caption"])
    torch.testing.assert_close(padded.tokens[0, : int(alone.mask.sum())], alone.tokens[0])
    alone.tokens.square().sum().backward()
    assert model.ngrams.vectors.weight.grad.abs().sum() > 0


def test_without_ngrams_an_encoder_has_the_weights_it_always_had():
    assert not [name for name in encoder().state_dict() if "ngram" in name]
