"""Metric rows survive interruption without repetition."""

import pytest

from fluxflow_exp.errors import UserError
from fluxflow_exp.run.metric_log import MetricLog, Window, read_rows, row_every


def write(log, update, value):
    log.write("train", update=update, epoch=1, batch=update, metrics={"vae": value})


def test_rewind_drops_later_rows_and_a_torn_line(tmp_path):
    log = MetricLog(tmp_path / "graph" / "m.jsonl")
    log.rewind(0)
    for update in (10, 20, 30):
        write(log, update, update / 10)
    with log.path.open("a") as file:
        file.write('{"kind": "train", "glob')
    log.rewind(20)
    write(log, 30, 3.0)
    assert [(r["global_step"], r["metrics"]["vae"]) for r in read_rows(log.path)] == [
        (10, 1.0),
        (20, 2.0),
        (30, 3.0),
    ]


def test_a_damaged_line_is_said_and_a_torn_last_one_is_not(tmp_path):
    path = tmp_path / "m.jsonl"
    write(MetricLog(path), 1, 0.5)
    whole = path.read_text()
    path.write_text(whole + '{"kind": "tr')
    assert [row["global_step"] for row in read_rows(path)] == [1]
    for line, where in (
        ('{"kind": "tr', ""),
        (whole.replace('"global_step": 1', '"global_step": "x"').strip(), "global_step"),
        (whole.replace("0.5", "NaN").strip(), "metrics.vae"),
    ):
        path.write_text(f"{whole}{line}\n{whole}")
        with pytest.raises(UserError, match=rf"m\.jsonl is damaged: line 2 in it is no row \({where}"):
            read_rows(path)


def test_what_is_not_finite_is_null(tmp_path):
    log = MetricLog(tmp_path / "m.jsonl")
    write(log, 1, float("nan"))
    assert read_rows(log.path)[0]["metrics"] == {"vae": None}


def test_a_window_gives_means_and_starts_again():
    window = Window()
    window.add({"a": 1.0, "b": 4.0})
    window.add({"a": 3.0})
    assert window.take() == {"a": 2.0, "b": 4.0}
    assert window.take() == {}


@pytest.mark.parametrize(("updates", "every"), [(0, 1), (4, 1), (12, 1), (64, 6), (199, 19), (200, 20), (9000, 20)])
def test_a_short_step_has_rows_for_a_curve_unless_they_were_asked_for(updates: int, every: int) -> None:
    assert row_every("auto", updates) == every
    assert updates < 10 or updates // every >= 10
    assert row_every(20, updates) == 20
