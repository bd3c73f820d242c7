"""A number with its provenance: kept, read again, and not compared with what is unlike it."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from fluxflow_exp.errors import UserError
from fluxflow_exp.evaluation import record
from fluxflow_exp.evaluation.record import Record, comparable

ONE = Record(
    metric="fd",
    value=3.5,
    unit=None,
    lower_is_better=True,
    step="flow",
    update=90,
    ema=True,
    n=256,
    seed=0,
    guidance=4.0,
    img_size=32,
    implementation="torchmetrics 1.9.0",
    features={"name": "efficientnet_lite0", "digest": "5f" * 32},
    weights_digest="aa" * 32,
    reference_digest="bb" * 32,
    sampler="euler, 25 steps",
    precision="fp32",
    device="CPU",
    data=[],
)


def test_other_weights_may_be_compared() -> None:
    other = replace(ONE, value=2.0, weights_digest="cc" * 32, step="flow_cfg", update=180, device="NVIDIA H200")
    assert comparable(ONE, other) is None
    moved = {"name": "folder", "digest": "5f" * 32}
    assert comparable(ONE, replace(other, features=moved)) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n": 64}, "number of images (256 and 64)"),
        ({"reference_digest": "cd" * 32}, "held-out images (or captions) (bbbbbbbb and cdcdcdcd)"),
        ({"guidance": 7.0}, "guidance (4.0 and 7.0)"),
        ({"seed": 1}, "seed of the noise (0 and 1)"),
        ({"ema": False}, "averaged weights (True and False)"),
        ({"img_size": 64}, "image size (32 and 64)"),
        ({"implementation": "torchmetrics 1.8.0"}, "implementation (torchmetrics 1.9.0 and torchmetrics 1.8.0)"),
        ({"sampler": "heun, 25 steps"}, "sampler (euler, 25 steps and heun, 25 steps)"),
        ({"precision": "bf16"}, "precision (fp32 and bf16)"),
        ({"metric": "kid"}, "metric (fd and kid)"),
        (
            {"features": {"name": "inception", "digest": "ef" * 32}},
            "features (efficientnet_lite0 5f5f5f5f and inception efefefef)",
        ),
        ({"features": None}, "features (efficientnet_lite0 5f5f5f5f and None)"),
    ],
)
def test_unlike_numbers_are_not_compared_and_why(change: dict[str, object], said: str) -> None:
    assert comparable(ONE, replace(ONE, **change)) == f"not the same {said}"  # type: ignore[arg-type]


def test_where_reconstructions_fall_short_precision_says_little() -> None:
    def said(**values: float | None) -> list[str]:
        return record.remarks(asdict(replace(ONE, metric=name, reconstructed=of)) for name, of in values.items())

    assert said(precision=0.72, recall=0.5, fd=None) == []
    (line,) = said(precision=0.0, recall=0.004)
    assert line == (
        "precision and recall say little of what is drawn here: the held-out images' own reconstructions have 0 and "
        "0.004, and no drawing can be expected to have more"
    )
    assert said(precision=0.9, recall=0.3)[0].startswith("recall says little of what is drawn here")
    assert record.remarks([{"metric": "precision", "value": 0.0}]) == [], "records of earlier versions do not know"


def test_records_are_kept_until_they_are_measured_anew_or_the_weights_change(tmp_path: Path) -> None:
    weights, path = tmp_path / "final.safetensors", tmp_path / "evaluations" / "final.json"
    weights.write_bytes(b"one")
    record.write(path, weights, [ONE, replace(ONE, metric="kid")])
    record.write(path, weights, [replace(ONE, value=9.0), replace(ONE, guidance=7.0)])
    assert [(r.metric, r.guidance, r.value) for r in record.read(path)] == [
        ("kid", 4.0, 3.5),
        ("fd", 4.0, 9.0),
        ("fd", 7.0, 3.5),
    ]
    assert record.of_run(tmp_path) == record.read(path)
    facts = json.loads(path.read_text())
    assert facts["results"][1] == asdict(replace(ONE, value=9.0))
    assert (facts["format"], facts["weights"]) == (1, str(weights))
    weights.write_bytes(b"two")
    record.write(path, weights, [replace(ONE, weights_digest="dd" * 32)])
    assert [r.weights_digest for r in record.read(path)] == ["dd" * 32]
    path.write_text(json.dumps({**facts, "format": 2}))
    with pytest.raises(UserError, match="evaluation format 2"):
        record.read(path)


def test_metrics_are_picked_by_name_and_guidance_of_averaged_weights() -> None:
    found = [ONE, replace(ONE, guidance=1.0), replace(ONE, ema=False), replace(ONE, metric="ssim", guidance=None)]
    assert record.select(found, "fd@4") == [ONE]
    assert record.select(found, "fd") == found[:2]
    assert record.select([replace(ONE, metric="psnr", guidance=None)], "psnr@4") == []
    assert record.names(found) == ["fd@4", "fd@1", "ssim"]


def test_the_table_has_a_line_a_number_and_a_column_a_kind_of_weights() -> None:
    lines = record.table([ONE, replace(ONE, ema=False, value=3.25), replace(ONE, metric="psnr", unit="dB")]).split("\n")
    assert lines[0].split()[:4] == ["metric", "guidance", "averaged", "raw"]
    assert lines[1].split()[:4] == ["fd", "4", "3.5", "3.25"]
    assert lines[1].endswith("efficientnet_lite0 5f5f5f5f")
    assert "dB" in lines[2]
