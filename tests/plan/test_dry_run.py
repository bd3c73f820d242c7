"""Memory and work of a step's updates, predicted without a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fluxflow_exp.config.compose import resolve, typed
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.data.build import build_data
from fluxflow_exp.plan.dry_run import WORKSPACE, Cost, Rehearsal, rehearsal
from fluxflow_exp.step_length import length_of
from tests.conftest import TOY
from tests.helpers.networks import small_timm
from tests.helpers.text_encoders import save

pytestmark = pytest.mark.usefixtures("garbage_apart")

IMAGES = 8 * 3 * 64 * 64 * 4  # bytes of a batch
EAGER = "hardware.compile=false"  # fewer graphs to trace
GRAPHLESS = "hardware.cuda_graphs=false"
LPIPS = ["+loss@stage.steps.vae.trainer.perceptual=lpips", "stage.steps.vae.trainer.perceptual.pretrained=false"]
LPIPS += ["stage.steps.vae.trainer.perceptual.net=squeeze"]


@contextmanager
def rehearsed(stage: str, *overrides: str) -> Iterator[Rehearsal]:
    """A toy step of 8 images of 64 pixels an update."""
    sizes = [f"stage={stage}", f"stage.steps.{stage}.batch_size=8", "hardware=h200", "data.img_size=64"]
    toy = [each for each in TOY if not each.startswith(("hardware", "data.img_size"))]
    config = typed(resolve(compose_config([*toy, *sizes, *overrides])))
    data = build_data(config)
    size = length_of(config.stage.steps[stage], data[stage], config)
    with rehearsal(config, stage, size, data[stage]) as tried:
        yield tried


def costs(stage: str, *overrides: str, micro_batch: int = 8) -> dict[str, Cost]:
    with rehearsed(stage, *overrides) as tried:
        return {" ".join(kind): tried.cost(kind, micro_batch) for kind in tried.kinds()}


@pytest.fixture(scope="module")
def plain() -> Cost:
    return costs("vae", EAGER)[""]


def test_weights_averages_moments_and_gradients_take_four_bytes_each() -> None:
    with rehearsed("vae", EAGER) as tried:
        parameters = [p for player in tried.trainer.players.values() for p in player.parameters]
        count, rounding = sum(p.numel() for p in parameters), 512 * len(parameters)
        assert 8 * count <= tried.kept <= 8 * count + 2 * rounding
        cost = tried.cost((), 8)
        assert 16 * count <= tried.meter.live <= 16 * count + 8 * rounding + IMAGES  # what was made of them last
        assert cost.peak >= 20 * count
        # The best point's weights, too.
        assert 20 * count <= tried.checkpoint_bytes() <= 20 * count + rounding


def test_checkpointing_lowers_the_peak_and_computes_more(plain: Cost) -> None:
    again = costs("vae", "hardware.activation_checkpointing=true", EAGER)[""]
    assert again.peak < plain.peak
    assert again.flops > plain.flops


def test_smaller_micro_batches_lower_the_peak_and_compute_the_same(plain: Cost) -> None:
    two, four = (costs("vae", EAGER, micro_batch=size)[""] for size in (4, 2))
    assert four.peak < two.peak < plain.peak
    assert plain.flops == two.flops == four.flops


def test_lpips_and_r1_raise_what_they_should(plain: Cost) -> None:
    assert costs("vae", EAGER, *LPIPS)["lpips"].peak > plain.peak
    start = "stage.steps.vae_gan.trainer.adversarial.start=1"
    found = costs("vae_gan", EAGER, "stage.steps.vae_gan.n_epochs=5", start)
    assert set(found) == {"", "gan", "gan r1"}
    assert found["gan r1"].flops > found["gan"].flops > found[""].flops
    assert found["gan r1"].peak >= found["gan"].peak


def test_graphs_take_arguments_gradients_and_a_workspace_of_their_own(plain: Cost) -> None:
    with rehearsed("vae", EAGER, "hardware.cuda_graphs=true") as tried:
        gradients = 4 * sum(p.numel() for player in tried.trainer.players.values() for p in player.parameters)
        more = tried.cost((), 8).peak - plain.peak
    least = IMAGES + WORKSPACE
    assert least <= more <= least + gradients + IMAGES


def test_graphs_of_muon_keep_the_gradients_that_they_are_given() -> None:
    with rehearsed("vae", EAGER, "optimizer=muon", "hardware.cuda_graphs=true") as tried:
        tried.cost((), 8)
        (optimizer,) = tried.trainer.accumulation.replaying
        kept = {id(each): each.numel() for given in optimizer.graphs.arguments.values() for each in given if each.ndim}
    assert sum(kept.values()) == sum(parameter.numel() for parameter in optimizer.hidden) > 0


@pytest.mark.slow
def test_compiled_regions_keep_less_than_eager_ones(plain: Cost) -> None:
    launched = "hardware.cuda_graphs=false"
    compiled = costs("vae", launched)[""]
    checkpointed = costs("vae", launched, "hardware.activation_checkpointing=true")[""]
    assert checkpointed.peak < compiled.peak < plain.peak
    assert plain.flops == compiled.flops < checkpointed.flops


def test_a_cache_of_views_takes_as_much_of_each() -> None:
    with rehearsed("flow", EAGER) as tried:
        one, plain = tried.cached_bytes(), tried.cost((), 8)
    on = "stage.steps.flow.trainer.augmentation"
    with rehearsed("flow", EAGER, f"+loss@{on}=augmentation", f"{on}.views=5") as tried:
        assert tried.cached_bytes() == 5 * one
        assert tried.cost((), 8).flops > plain.flops  # of the embedding


def test_a_cached_flow_step_encodes_nothing() -> None:
    encoding = costs("flow", EAGER, "cache.mode=off")[""]
    with rehearsed("flow", EAGER) as tried:
        assert tried.cost((), 8).flops < encoding.flops
        assert tried.cached_bytes() == 2 * 4 * 16 * 16 * 2  # mean and log-variance of 4 channels, half precision


@pytest.mark.parametrize("kind", ["qwen3", "t5"])
def test_a_text_encoder_whose_tokens_are_cached_is_not_on_the_card(tmp_path: Path, kind: str) -> None:
    name = f"model.text_encoder.name={save(tmp_path / kind, kind)}"
    chosen = ["model/text_encoder=huggingface", name, "model.text_dim=16", "+model.text_encoder.dtype=bfloat16"]
    with rehearsed("flow", EAGER, *chosen, "cache.mode=off") as asked:
        weights = [2 * p.numel() for p in asked.trainer.text_encoder.parameters()]
        kept, work = asked.kept, asked.cost((), 8).flops
        assert asked.token_bytes() is None
    with rehearsed("flow", EAGER, *chosen, "cache.text_dtype=float8") as cached:
        assert kept - cached.kept >= sum(weights)
        assert cached.cost((), 8).flops < work
        tokens = cached.trainer.text_encoder.lengths(cached.captions)[0]
        assert cached.token_bytes() == tokens * (16 + 4)


def test_a_rank_holds_its_share_of_what_is_spread_and_gathers_blocks() -> None:
    lives = {}
    for parallel in ("ddp", "fsdp"):
        with rehearsed("flow", EAGER, "hardware.devices=4", f"hardware.parallel={parallel}", GRAPHLESS) as tried:
            flow, kept = tried.trainer.setup.parts["flow_processor"], tried.meter.live
            tried.cost((), 8)
            lives[parallel] = (kept, tried.meter.live, tried.gathered)
    matrices = sum(p.numel() for p in flow.parameters() if p.ndim > 1)
    rounding = 512 * len(list(flow.parameters()))
    assert lives["ddp"][0] - lives["fsdp"][0] == pytest.approx(8 * matrices * 3 / 4, abs=2 * rounding)
    assert lives["ddp"][1] - lives["fsdp"][1] == pytest.approx(16 * matrices * 3 / 4, abs=4 * rounding)
    (block,) = (4 * sum(p.numel() for p in block.parameters()) for block in flow.blocks)
    outside = sum(each.numel() * each.element_size() for each in flow.state_dict().values()) - block
    assert (lives["ddp"][2], lives["fsdp"][2]) == (0, 5 * block + 2 * outside)


def test_many_micro_batches_are_reckoned_from_few() -> None:
    with rehearsed("vae_gan", EAGER, "stage.steps.vae_gan.trainer.adversarial.start=0") as tried:
        reckoned, run = tried.cost(("gan",), 2), tried._run(1, 2, 4)
    assert reckoned.peak == pytest.approx(run.peak, rel=1e-3)
    assert reckoned.flops == run.flops


@pytest.mark.parametrize("mode", ["on", "off"])
def test_a_teacher_computes_where_its_features_are_not_kept_and_its_projector_is_trained(
    tmp_path: Path, mode: str
) -> None:
    aligned = "stage.steps.flow.trainer.repa"
    words = [f"+loss@{aligned}=repa", f"{aligned}.teacher_path={small_timm(tmp_path)}", f"{aligned}.width=16"]
    given = [EAGER, f"cache.mode={mode}", "stage.steps.flow.n_epochs=2"]
    with rehearsed("flow", *given) as plain, rehearsed("flow", *given, *words, f"{aligned}.stop=0.5") as tried:
        count = sum(p.numel() for p in tried.trainer.alignment.projector.parameters())
        trained = [sum(p.numel() for p in each.trainer.players["flow"].parameters) for each in (plain, tried)]
        assert trained[1] == trained[0] + count
        assert dict(tried.kinds()) == {("repa",): 4, (): 4}
        flops = {kind: tried.flops(kind) for kind in tried.kinds()}
        kept = tried.cached_bytes() - plain.cached_bytes()
        assert kept == 2 * tried.trainer.alignment.teacher.channels * 5 * 5
        seen = flops["repa",] - flops[()]
        projected = 3 * 2 * 8 * 16**2 * count  # of eight pictures' tokens, forwards and backwards
        assert (seen > 1.5 * projected) == (mode == "off")
