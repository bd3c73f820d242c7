"""Metric rows survive interruption without repetition."""

import pytest

from fluxflow_exp.config import UserError
from fluxflow_exp.tracking import MetricLog, Window, read_rows


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
    path.write_text('{"kind": "train"}\n{"kind": "tr')
    assert read_rows(path) == [{"kind": "train"}]
    path.write_text('{"kind": "tr\n{"kind": "train"}\n')
    with pytest.raises(UserError, match=r"m\.jsonl is damaged"):
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
