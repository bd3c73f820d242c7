"""Going on from a published model: what moves and what stays, what is published, and that a kill changes nothing."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fluxflow_exp import pipeline
from fluxflow_exp.config.compose import resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.errors import UserError
from fluxflow_exp.generate.command import parser
from fluxflow_exp.generate.drawing import generate
from fluxflow_exp.models import lora, tensor_files, weights
from fluxflow_exp.models.text_to_image import TextToImage
from fluxflow_exp.preflight import check
from fluxflow_exp.run.diff import differences
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.metric_log import read_rows
from tests.conftest import TOY, TOY_WITHOUT_DATA, toy
from tests.helpers.children import KillDuring, finish, finish_ranks
from tests.helpers.outcomes import losses

STEP = "stage.steps.finetune"
SETS = [
    "data=multi",
    *(f"+data@data.datasets.{name}=shapes" for name in ("new", "old")),
    *(f"data.datasets.{name}.{key}" for name in ("new", "old") for key in ("img_size=16", "n_images=24")),
    "data.datasets.new.seed=1",
]
TEXT = [f"+{group}@{STEP}.{group}s.text_encoder=as_run" for group in ("optimizer", "scheduler")]
FLOW = "flow_processor"


def finetuned(base: Path, output: Path, *overrides: str, stage: str = "finetune_lora") -> dict[str, Any]:
    """The configuration of going on from `base` on shapes `new`, beside which `old` ones are looked at."""
    words = [word for word in TOY_WITHOUT_DATA if not word.startswith("model.")]
    return resolve(
        compose_config(
            [
                f"stage={stage}", f"init_from={base}", *words, *SETS, STEP + ".data={new: 1, old: 0}",
                f"{STEP}.max_updates=8", "model.learning_rate=0.1", f"output_root={output}", *overrides,
            ]
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("base")
    short = [
        f"stage.steps.{step}.{key}"
        for step in ("vae", "flow")
        for key in ("max_updates=12", "n_epochs=3", "batch_size=8")
    ]
    pipeline.run(toy(root, "name=base", *short, stage="vae_flow"))
    return root / "base"


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finetuned")
    values = finetuned(base, root)
    assert check.problems(values) == []
    pipeline.run(values)
    return root / "finetune_lora"


def final(run: Path) -> Path:
    return run / "weights" / "final.safetensors"


def adapter(run: Path) -> Path:
    return run / "weights" / "finetune.lora.safetensors"


def state(run: Path, part: str = FLOW) -> dict[str, Tensor]:
    return weights.read_part(final(run), part)


def changed(first: dict[str, Tensor], second: dict[str, Tensor]) -> set[str]:
    assert first.keys() == second.keys()
    return {name for name in first if not torch.equal(first[name], second[name])}


def test_only_the_layers_of_the_adapter_are_other_ones_in_the_merged_model(base: Path, run: Path) -> None:
    facts, parts = lora.read(adapter(run))
    assert (facts.rank, facts.alpha) == (4, 4.0)
    assert facts.base == {FLOW: lora.base_digest(state(base))}
    layers = {name.rpartition(".lora_")[0] for name in parts[FLOW]}
    assert "blocks.0.attention.query" in layers
    assert changed(state(base), state(run)) == {f"{layer}.weight" for layer in layers}
    for part in ("compressor", "expander", "text_encoder"):
        assert changed(state(base, part), state(run, part)) == set()


def test_checkpoints_hold_the_adapter_and_nothing_of_the_base(run: Path) -> None:
    (path,) = (run / "checkpoints").glob("*-final-*.pt")
    player = torch.load(path, weights_only=True)["players"]["flow"]
    names = {name.removeprefix(f"{FLOW}.") for name in weights_of(adapter(run))}
    assert player["parts"][FLOW].keys() == names
    assert player["ema"]["average"][FLOW].keys() == names
    assert len(player["optimizer"]["state"]) == len(names)


def weights_of(path: Path) -> set[str]:
    with tensor_files.opened(path) as file:
        return set(file.keys())


PROMPTS = ["a red circle on a blue ground", "a green star on a white ground", "a black ring on a grey ground"]


def pictures(model: TextToImage) -> Tensor:
    return torch.cat(list(model.generate(PROMPTS, steps=6, guidance_scale=3.0))).int()


def test_merged_and_unmerged_give_the_same_pictures(base: Path, run: Path) -> None:
    """As the run has merged it, as generation merges it, and beside the layers as it was trained."""
    facts, parts = lora.read(adapter(run))
    beside = TextToImage.load(final(base))
    names = lora.layers(FLOW, beside.flow_processor, facts.targets)
    lora.Adapter(beside.flow_processor, rank=facts.rank, alpha=facts.alpha, names=names).load_state_dict(parts[FLOW])
    unmerged = pictures(beside)
    for merged in (TextToImage.load(final(run)), TextToImage.load(final(base), adapter=adapter(run))):
        assert int((pictures(merged) - unmerged).abs().max()) <= 1
    assert int((pictures(TextToImage.load(final(base))) - unmerged).abs().max()) > 1
    without = TextToImage.load(final(base), adapter=adapter(run), adapter_scale=0.0)
    assert torch.equal(pictures(without), pictures(TextToImage.load(final(base))))


def test_the_command_takes_an_adapter_and_refuses_one_of_another_base(base: Path, run: Path, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text(PROMPTS[0])

    def command(model: Path, *more: str) -> None:
        words = ["--model_checkpoint", str(model), "--text_prompts_path", str(tmp_path / "p.txt"), "--steps", "2"]
        generate(parser().parse_args([*words, "--output_path", str(tmp_path / "out"), "--device", "cpu", *more]))

    command(final(base), "--lora", str(run), "--lora_scale", "0.5")
    with pytest.raises(UserError, match=r"--lora: .* was trained on another model"):
        command(final(run), "--lora", str(adapter(run)))
    with pytest.raises(UserError, match="--lora_scale acts with --lora alone"):
        command(final(base), "--lora_scale", "0.5")
    with pytest.raises(UserError, match="--lora_scale must be a finite number, not nan"):
        command(final(base), "--lora", str(adapter(run)), "--lora_scale", "nan")


def test_what_is_forgotten_of_old_data_is_measured(base: Path, run: Path) -> None:
    rows = [
        row["metrics"]
        for row in read_rows(run / "graph" / "training_metrics_finetune.jsonl")
        if row["kind"] == "held_out"
    ]
    last = RunFolder(run).read_record()["steps"]["finetune"]["final"]
    assert {"val_flow", "val_flow_new", "val_flow_old", "drift_new", "drift_old"} == rows[-1].keys() == last.keys()
    begun = rows[-1]["val_flow_old"] - rows[-1]["drift_old"]
    assert f"val_flow_old {begun:.4g}" in (run / "log.txt").read_text()
    assert rows[-1]["drift_old"] != 0


@pytest.mark.parametrize("count", [pytest.param(1, marks=pytest.mark.slow), 5])
def test_killed_and_resumed_it_ends_the_same(base: Path, run: Path, tmp_path: Path, count: int) -> None:
    """Killed before the first save, and after it."""
    values, log = finetuned(base, tmp_path), tmp_path / "log"
    kill = KillDuring("fluxflow_exp.trainers.updates:Updates", "update", count)
    assert finish(values, log, kill) == -signal.SIGKILL, log.read_text()
    assert finish(values, log) == 0, log.read_text()
    assert ("continuing after update 3 of 8" in log.read_text()) == (count == 5)
    found, counts = differences(run, tmp_path / "finetune_lora")
    assert [line for line in found if not line.endswith(": saves differs")] == []
    assert all(counts.values())


def test_a_whole_model_starts_from_averages_and_keeps_its_latents_scale(base: Path, tmp_path: Path) -> None:
    values = finetuned(base, tmp_path, f"{STEP}.max_updates=2", *TEXT, stage="finetune")
    pipeline.run(values)
    run = tmp_path / "finetune"
    assert not adapter(run).exists()
    before, after = state(base), state(run)
    assert "blocks.0.attention.query.weight" in changed(before, after)
    assert torch.equal(before["latent_mean"], after["latent_mean"])
    assert torch.equal(before["latent_std"], after["latent_std"])
    assert changed(state(base, "text_encoder"), state(run, "text_encoder"))
    assert f"flow_processor from {final(base)}" in (run / "log.txt").read_text()


def test_before_it_a_model_is_measured_as_it_was_in_its_own_run(base: Path, tmp_path: Path) -> None:
    words = [
        "stage=finetune",
        f"init_from={base}",
        *(w for w in TOY if not w.startswith("model.")),
        f"{STEP}.max_updates=1",
    ]
    pipeline.run(resolve(compose_config([*words, f"output_root={tmp_path}"])))
    its_own = RunFolder(base).read_record()["steps"]["flow"]["final"]["val_flow"]
    assert f"the published model has val_flow {its_own:.4g}" in (tmp_path / "finetune" / "log.txt").read_text()
    before = RunFolder(tmp_path / "finetune").read_record()["steps"]["finetune"]["before"]
    assert before["val_flow"] == pytest.approx(its_own, rel=1e-6)


def test_the_text_encoder_is_adapted_where_it_is_not_frozen(base: Path, tmp_path: Path) -> None:
    targets = "[*.attention.query,text_encoder.blocks.*.out]"
    words = [f"{STEP}.max_updates=2", *TEXT, f"+{STEP}.trainer.lora_targets={targets}"]
    pipeline.run(finetuned(base, tmp_path, *words, f"+{STEP}.trainer.lora_alpha=8"))
    facts, parts = lora.read(adapter(tmp_path / "finetune_lora"))
    assert (facts.alpha, parts.keys(), facts.base.keys()) == (8.0, {FLOW, "text_encoder"}, {FLOW, "text_encoder"})
    assert {name.rpartition(".lora_")[0] for name in parts[FLOW]} == {"blocks.0.attention.query"}
    assert {name.rpartition(".lora_")[0] for name in parts["text_encoder"]} == {"blocks.0.out"}
    TextToImage.load(final(base), adapter=adapter(tmp_path / "finetune_lora"))


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "parallel"), [("finetune_lora", "ddp"), ("finetune", "fsdp")])
def test_on_two_ranks_it_trains_alike(base: Path, tmp_path: Path, stage: str, parallel: str) -> None:
    pipeline.run(finetuned(base, tmp_path / "alone", "model.learning_rate=0.01", stage=stage))
    values = finetuned(base, tmp_path, "model.learning_rate=0.01", f"hardware.parallel={parallel}", stage=stage)
    assert finish_ranks(values, tmp_path / "log", 2) == [0, 0], (tmp_path / "log.0").read_text()
    alone, together = losses(tmp_path / "alone" / stage), losses(tmp_path / stage)
    assert together == pytest.approx(alone, rel=2e-3, abs=2e-3)
