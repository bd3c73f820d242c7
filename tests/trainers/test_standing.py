"""A run beside reference curves: what it says and writes, and that it trains as ever."""

from pathlib import Path

import pytest

from fluxflow_exp import files, pipeline
from fluxflow_exp.reference import alike, curves, standing
from fluxflow_exp.reference.curves import Point, Reference, StepCurves
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.metric_log import Row, read_rows
from tests.conftest import toy

WORDS = [
    "stage.steps.vae.n_epochs=3",
    "stage.steps.vae.batch_size=8",
    "samples.every_epochs=null",
    "health.images=null",
]
GOOD = {4: 1.0, 8: 3.0, 12: 1.0}  # update → how many times the run's own PSNR the others had


def trained(root: Path, name: str, reference: str) -> RunFolder:
    pipeline.run(toy(root, *WORDS, f"name={name}", f"evaluation.reference={reference}", stage="vae"))
    return RunFolder(root / name)


def held_out(folder: RunFolder) -> list[Row]:
    return [row for row in read_rows(folder.metrics("vae")) if row["kind"] == "held_out"]


def others(folder: RunFolder) -> Reference:
    """Curves of runs that had the PSNR of `folder`, but three times that at update 8."""
    facts = alike.facts(folder.frozen(), folder.read_record(), "vae")
    rows = read_rows(folder.metrics("vae"))
    points = []
    for row in held_out(folder):
        rate = standing.rate_of(rows[: rows.index(row)], facts)
        value = row["metrics"]["val_psnr"] * GOOD[row["global_step"]]
        points.append(Point(row["global_step"], row["global_step"] * 8, rate or 0.0, (value,) * 3))
    steps = {"vae": StepCurves(**vars(facts), metrics={"val_psnr": tuple(points)})}
    return Reference("planted drawings", "tiny", "vae", (1, 2, 3), {}, steps)


@pytest.mark.slow
def test_a_run_is_told_where_it_lies_and_trains_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    alone = trained(tmp_path, "alone", "off")
    assert "beside" not in capsys.readouterr().out
    assert "standing" not in alone.read_record()["steps"]["vae"]
    curves.write(tmp_path / "curves.json", others(alone))
    beside = trained(tmp_path, "beside", str(tmp_path / "curves.json"))
    apart, end = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Step vae, update")]
    assert apart.startswith("Step vae, update 8: apart from 3 runs on planted drawings: val_psnr")
    assert end.startswith("Step vae, update 12: on track beside 3 runs on planted drawings: val_psnr")
    assert files.read_json(beside.summary)["steps"]["vae"]["standing"] == end
    assert end in (beside.path / "report.html").read_text()
    weights = [(run.weights / "final.safetensors").read_bytes() for run in (alone, beside)]
    assert weights[0] == weights[1]
    assert [row["metrics"] for row in held_out(alone)] == [row["metrics"] for row in held_out(beside)]


def test_a_file_that_cannot_be_read_is_told_before_anything_is_trained(tmp_path: Path):
    from fluxflow_exp.preflight import check

    values = toy(tmp_path, "evaluation.reference=none.json", stage="vae")
    (problem,) = check.problems(values)
    assert problem.startswith("evaluation.reference: there is no file none.json")
