"""The flow transformer: rotation, masks, starting point, learning."""

import pytest
import torch

from fluxflow_exp.models.flow import FlowProcessor, long_skips_of, time_features
from fluxflow_exp.models.flow_block import places, rotary
from fluxflow_exp.models.head_norm import rotate
from fluxflow_exp.models.text_encoder import Text

OPTIONS = ("long_skips", "shared_modulation", "value_residual")


def model(activation="silu", patch_size=1, depth=2, **options):
    torch.manual_seed(0)
    return FlowProcessor(
        vae_dim=4, width=32, depth=depth, heads=2, text_dim=16, patch_size=patch_size, activation=activation, **options
    )


def text(batch=2, length=5, valid=3):
    tokens = torch.randn(batch, length, 16, generator=torch.Generator().manual_seed(1))
    mask = torch.arange(length).expand(batch, length) < valid
    return Text(tokens * mask[..., None], mask)


def stirred(flow):
    """Weights away from the zero initialisation, so that every path acts."""
    torch.manual_seed(5)
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return flow


def tokens_of(flow, x, time, text):
    """What the output layer is given, before its norm."""
    found = []
    handle = flow.blocks[-1].register_forward_hook(lambda *call: found.append(call[2]))
    flow(x, time, text)
    handle.remove()
    return found[0]


def test_it_starts_at_zero_velocity():
    assert model()(torch.randn(2, 4, 4, 4), torch.rand(2), text()).abs().max() == 0


def test_rotation_keeps_length_and_depends_on_relative_place():
    rotation = rotary(3, 5, 16, device=torch.device("cpu"))
    q, k = torch.randn(16, dtype=torch.float64), torch.randn(16, dtype=torch.float64)
    rotated_q, rotated_k = (rotate(v.expand(1, 1, 15, 16), rotation.double())[0, 0].view(3, 5, 16) for v in (q, k))
    torch.testing.assert_close(rotated_q.norm(dim=-1), q.norm().expand(3, 5))
    products = torch.einsum("ijc,klc->ijkl", rotated_q, rotated_k)
    torch.testing.assert_close(products[0, 1, 1, 3], products[1, 2, 2, 4], rtol=1e-5, atol=1e-5)
    assert (products[0, 0, 0, 1] - products[0, 0, 1, 0]).abs() > 1e-4


@pytest.mark.parametrize("patch_size", [1, 2])
def test_padding_of_the_text_changes_nothing(patch_size):
    flow = stirred(model(patch_size=patch_size))
    x, time = torch.randn(2, 4, 4, 4), torch.rand(2)
    short = text(length=3)
    long = Text(
        torch.cat([short.tokens, torch.full((2, 4, 16), 7.0)], 1),
        torch.cat([short.mask, torch.zeros(2, 4, dtype=torch.bool)], 1),
    )
    torch.testing.assert_close(flow(x, time, short), flow(x, time, long), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("activation", ["bezier", "silu", "gelu", "relu"])
def test_time_text_and_place_all_matter(activation):
    flow = stirred(model(activation))
    x, time = torch.randn(2, 4, 4, 4), torch.rand(2)
    base = flow(x, time, text())
    assert base.shape == x.shape
    assert (flow(x, time * 0.5, text()) - base).abs().max() > 1e-3
    other = Text(text().tokens.flip(2), text().mask)
    assert (flow(x, time, other) - base).abs().max() > 1e-3
    assert (flow(x.flip(3), time, text()).flip(3) - base).abs().max() > 1e-4


def test_samples_of_a_batch_are_independent():
    flow = stirred(model())
    x, time = torch.randn(3, 4, 4, 4), torch.rand(3)
    whole = flow(x, time, text(3))
    alone = flow(x[1:2], time[1:2], Text(text(3).tokens[1:2], text(3).mask[1:2]))
    torch.testing.assert_close(whole[1:2], alone, rtol=1e-4, atol=1e-4)


def test_normalise_and_denormalise_are_inverse():
    flow = model()
    flow.latent_mean.copy_(torch.arange(4.0))
    flow.latent_std.copy_(torch.arange(1.0, 5.0))
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(flow.denormalise(flow.normalise(x)), x)
    assert flow.normalise(torch.arange(4.0).view(1, 4, 1, 1)).abs().max() == 0


def test_checkpointing_gives_the_same_gradients():
    flow = stirred(model())
    x, time = torch.randn(2, 4, 4, 4), torch.rand(2)
    results = []
    for checkpointing in (False, True):
        flow.checkpointing = checkpointing
        flow.zero_grad()
        flow(x, time, text()).square().sum().backward()
        results.append([p.grad.clone() for p in flow.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("option", OPTIONS)
def test_an_untrained_model_computes_the_same_with_each_option(option):
    plain, other = model(depth=4), model(depth=4, **{option: True})
    other.load_state_dict(plain.state_dict(), strict=False)
    given = torch.randn(2, 4, 4, 4), torch.rand(2), text()
    assert torch.equal(tokens_of(other, *given), tokens_of(plain, *given))
    trained, stirring = stirred(other)(*given), stirred(plain)(*given)
    assert (trained - stirring).abs().max() > 1e-3


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_weight_of_all_options_together_gets_a_gradient(checkpointing):
    flow = stirred(model(depth=5, **dict.fromkeys(OPTIONS, True)))
    flow.checkpointing = checkpointing
    flow(torch.randn(2, 4, 4, 4), torch.rand(2), text()).square().sum().backward()
    assert [name for name, p in flow.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


@pytest.mark.parametrize(
    ("depth", "joined"), [(3, {0: 2}), (4, {0: 3}), (5, {0: 4, 1: 3}), (10, {0: 9, 1: 8, 2: 7, 3: 6})]
)
def test_long_skips_join_ends_first_and_no_neighbours(depth, joined):
    assert long_skips_of(depth) == joined
    flow = model(depth=depth, long_skips=True)
    assert [index for index, block in enumerate(flow.blocks) if block.skip is not None] == sorted(joined.values())


def test_a_long_skip_adds_a_projection_of_what_its_block_gave():
    flow = model(depth=3, long_skips=True)
    inputs, outputs = [], []
    flow.blocks[0].register_forward_hook(lambda *call: outputs.append(call[2]))
    flow.blocks[2].register_forward_hook(lambda *call: inputs.append(call[1]))
    with torch.no_grad():
        flow.blocks[2].skip.weight.copy_(3 * torch.eye(32))
        last = tokens_of(flow, torch.randn(2, 4, 4, 4), torch.rand(2), text())
    # Gates and cross-attention are closed: what a block adds is its skip alone.
    torch.testing.assert_close(last, inputs[0][0] + 3 * outputs[0])


def test_a_shared_modulation_is_one_projection_and_a_bias_for_each_block():
    flow, plain = stirred(model(depth=2, shared_modulation=True)), model(depth=2)
    state = flow.state_dict()
    shared = state.pop("shared_modulation.weight")
    for index in range(2):
        state[f"blocks.{index}.modulation.weight"] = shared
    plain.load_state_dict(state)
    given = torch.randn(2, 4, 4, 4), torch.rand(2), text()
    torch.testing.assert_close(flow(*given), plain(*given), rtol=1e-4, atol=1e-4)
    saved = sum(p.numel() for p in plain.parameters()) - sum(p.numel() for p in flow.parameters())
    assert saved == 6 * 32 * 32


def test_a_value_residual_mixes_in_the_values_of_the_first_block():
    flow, plain = stirred(model(depth=2, value_residual=True)), model(depth=2)
    state = flow.state_dict()
    mix = "blocks.1.attention.mix"
    assert [name for name in state if name.endswith("mix")] == [mix]
    plain.load_state_dict({name: value for name, value in state.items() if name != mix})
    given = torch.randn(2, 4, 4, 4), torch.rand(2), text()
    with torch.no_grad():
        flow.blocks[1].attention.mix.copy_(torch.tensor([0.0, 1.0]))  # its own values alone
        torch.testing.assert_close(flow(*given), plain(*given))
        flow.blocks[1].attention.mix.copy_(torch.tensor([1.0, 0.0]))  # those of the first alone: its own do not matter
        before = flow(*given)
        flow.blocks[1].attention.key_value.weight[32:].normal_()
        torch.testing.assert_close(flow(*given), before)
        flow.blocks[0].attention.key_value.weight[32:].normal_()
        assert (flow(*given) - before).abs().max() > 1e-3


@pytest.mark.parametrize("patch_size", [1, 2])
def test_absolute_positions_tell_the_places_of_a_constant_image(patch_size):
    plain, flow = (model(patch_size=patch_size, absolute_positions=on) for on in (False, True))
    assert plain.state_dict().keys() == flow.state_dict().keys()
    given = torch.full((2, 4, 6, 4), 0.7), torch.rand(2), text()
    wide, high = 4 // patch_size, 6 // patch_size
    added = tokens_of(flow, *given) - tokens_of(plain, *given)
    quarters = torch.pi / 2 / 16 ** (torch.arange(8) / 8)  # 32 channels: cosines and sines of 8 angles of y and of x
    row, column = high - 1, 1
    expected = torch.cat([row * quarters, column * quarters])
    torch.testing.assert_close(added[:, row * wide + column], torch.cat([expected.cos(), expected.sin()]).expand(2, 32))
    patches = torch.nn.functional.pixel_unshuffle
    same = patches(stirred(plain)(*given), patch_size).flatten(2)
    torch.testing.assert_close(same, same[:, :, :1].expand_as(same), rtol=1e-4, atol=1e-4)
    told = patches(stirred(flow)(*given), patch_size).flatten(2)
    assert (told[:, :, :1] - told[:, :, 1:]).abs().amax((0, 1)).min() > 1e-2


def test_no_two_places_are_the_same():
    found = places(64, 12, 32, device=torch.device("cpu"))
    assert found.shape == (64 * 12, 32)
    assert (torch.cdist(found, found) + 9 * torch.eye(64 * 12)).min() > 1


@pytest.mark.parametrize(("option", "depth"), [("long_skips", 2), ("value_residual", 1)])
def test_an_option_that_would_join_nothing_is_refused(option, depth):
    with pytest.raises(ValueError, match=f"{option} needs a depth of at least {depth + 1}, not {depth}"):
        model(depth=depth, **{option: True})


@pytest.mark.parametrize("options", [{}, dict.fromkeys(OPTIONS, True)])
def test_taps_are_what_their_blocks_give_in_the_order_asked_for(options):
    flow = stirred(model(depth=4, **options))
    given = torch.randn(2, 4, 4, 4), torch.rand(2), text()
    outputs = []
    for block in flow.blocks:
        block.register_forward_hook(lambda *call: outputs.append(call[2]))
    velocity, (last, first) = flow(*given, taps=(4, 1))
    assert torch.equal(last, outputs[3])
    assert torch.equal(first, outputs[0][0] if "value_residual" in options else outputs[0])
    assert torch.equal(velocity, flow(*given))
    with pytest.raises(KeyError):
        flow(*given, taps=(5,))


def test_time_features_tell_neighbouring_times_apart():
    features = time_features(torch.tensor([0.5, 0.501, 0.0]))
    assert features.shape == (3, 128)
    assert (features[0] - features[1]).norm() > 0.1
    assert features[2].tolist() == [1.0] * 64 + [0.0] * 64


def test_heads_must_fit_rotary_positions():
    with pytest.raises(ValueError, match="multiple of 4"):
        FlowProcessor(vae_dim=4, width=30, depth=1, heads=5, text_dim=8)
