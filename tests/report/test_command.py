"""Cards and comparisons as files: whole, with everything in them, and nothing of a run's text taken for markup."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fluxflow_exp import files
from fluxflow_exp.console import Console
from fluxflow_exp.errors import UserError
from fluxflow_exp.report import card as card_page
from fluxflow_exp.report import command as report
from fluxflow_exp.report import comparison, facts
from fluxflow_exp.run import live_report
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.metric_log import MetricLog
from tests.conftest import toy
from tests.helpers.carded import HOSTILE, STEPS, make_carded
from tests.helpers.children import KillDuring, finish
from tests.helpers.studies import Make

VOID = ("meta", "link", "br", "input", "img")


class Page(HTMLParser):
    """Elements that are opened and closed in order, their texts, and the JSON that is embedded."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.data = "", {}
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        tag, attributes = self.open[-1] if self.open else ("", {})
        if tag == "script" and attributes.get("type") == "application/json":
            self.data[attributes["id"]] = json.loads(data)
        elif tag not in ("script", "style"):
            self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.seen)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_carded(tmp_path)


def test_a_card_is_whole_and_shows_what_the_folder_holds(run: RunFolder) -> None:
    found = Page(report.write_card(run))
    assert found.count("h1") == 1
    assert found.count("table") == found.count("caption")
    for heading in ("Pictures", "Discriminator balance", "Health", "Plan against reality", "Cost", "Certificates"):
        assert heading in found.text
    assert "3.0 GPU hours, 6.00 USD" in found.text
    assert "12.25" in found.text  # an evaluation
    assert "torchmetrics 1.8" in found.text
    assert "7 updates, 15 min" in found.text  # done again
    assert "planned 3, 1.17 of it" in found.text  # peak memory
    assert "failed: vae_gan: EMA moves (it stood still)" in found.text
    assert "Not finite (step flow, update 31)" in found.text
    assert "discriminator_dominates (step vae, update 8, 2 times until update 16)" in found.text
    assert "hardware.price_per_hour" in found.text  # differs from the shipped defaults


def test_curves_and_pictures_are_embedded_whole(run: RunFolder) -> None:
    found = Page(report.write_card(run)).data
    panels = {each["title"]: each for each in found["curves"]["panels"]}
    psnr = {line["name"]: line for line in panels["PSNR"]["series"]}
    assert psnr["averaged weights"]["x"] == [8, 16, 24, 32, 40, 48, 56, 64, 72]
    assert psnr["raw weights"]["y"][0] == 16.0
    assert panels["Discriminator's hinge loss"]["series"][0]["y"][0] is None
    assert [mark["x"] for mark in found["curves"]["marks"]] == [0, 24, 40]
    gallery = found["gallery"]
    assert [(key["step"], key["update"]) for key in gallery["keys"]] == [
        (step, update) for step, updates in STEPS.items() for update in range(8, updates + 1, 8)
    ]
    first, last = gallery["runs"][0]["frames"][0], gallery["runs"][0]["frames"][-1]
    assert [row["label"] for row in first["rows"]] == ["original", "reconstruction"]
    assert [item["c"] for item in last["rows"][0]["items"]] == [HOSTILE, "a white ring"]
    assert all(image.startswith("data:image/webp;base64,") for image in gallery["images"])


def test_nothing_that_a_run_says_becomes_markup(run: RunFolder) -> None:
    found = Page(report.write_card(run))
    scripts = [attributes for name, attributes in found.seen if name == "script"]
    assert len(scripts) == 3  # two of data, one of the card
    assert not any("onload" in attributes for _, attributes in found.seen)
    assert found.count("b") == 0
    assert HOSTILE in found.text
    assert not any(
        str(value).startswith(("http", "//")) for _, a in found.seen for key, value in a.items() if key != "id"
    )


def test_the_closest_training_images_stand_beside_the_samples(run: RunFolder) -> None:
    found = Page(report.write_card(run))
    assert "Closest training images" in found.text
    assert "Step flow, averaged weights, guidance 4: copies found: 1 of 2." in found.text
    assert "0.062 mirrored: drawn for" in found.text
    shown = [attributes for name, attributes in found.seen if name == "img"]
    assert [each["alt"] for each in shown] == [HOSTILE, "a white ring"], "pictures of other folders are left out"
    assert shown[0]["src"] != shown[1]["src"]
    (run.path / "evaluations" / "copy_00.webp").write_bytes(b"torn")
    found = Page(report.write_card(run))
    assert found.count("img") == 0
    assert "copies found: 1 of 2" in found.text


def test_several_runs_are_one_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_carded(tmp_path / "sweep", "a", "model.activation=bezier")
    make_carded(tmp_path / "sweep", "b", "model.activation=silu", offset=1.0)
    compared = {
        "metric": "val_psnr", "by": "model.activation", "better": "higher", "budget": {"at": 72, "unit": "images"},
        "groups": [{"name": n, "mean": 1.0, "half_width": None, "std": None, "runs": [{"path": n}]} for n in "ab"],
        "pairs": [{"sentence": "a and b are not distinguishable"}], "notes": [HOSTILE],
    }  # fmt: skip
    files.write_json(tmp_path / "sweep" / "comparison" / "comparison.json", compared)
    assert report.cli([str(tmp_path / "sweep")]) == 0
    path = tmp_path / "sweep" / "comparison" / "comparison.html"
    assert capsys.readouterr().out == f"{path}\n"
    found = Page(path)
    assert "a and b are not distinguishable" in found.text
    assert "discriminator_dominates (step vae). The discriminator dominates" in found.text
    assert "(all 2 runs)" in found.text
    assert HOSTILE in found.text
    assert (found.count("script"), found.count("b")) == (3, 0)
    assert "model.expander.activation" in found.text  # follows the key that has a column
    runs = found.data["curves"]["runs"]
    assert runs == [{"name": "bezier", "color": 0, "dash": 0}, {"name": "silu", "color": 1, "dash": 0}]
    (psnr,) = [each for each in found.data["curves"]["panels"] if each["title"] == "PSNR"]
    assert [line["y"][0] for line in psnr["series"]] == [17.0, 18.0]
    assert [run["name"] for run in found.data["gallery"]["runs"]] == ["bezier", "silu"]


def test_a_comparison_of_other_runs_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Make) -> None:
    first, second = make("bezier", 0, [1.0, 2.0, 3.0]), make("silu", 0, [1.0, 2.0, 3.0])
    compared = {"groups": [{"runs": [{"path": "elsewhere/other"}]}]}
    files.write_json(first.parent / "comparison" / "comparison.json", compared)
    assert report.cli([str(first), str(second)]) == 0
    assert "compares other runs, too: other" in capsys.readouterr().out


def test_a_comparison_without_a_value_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Make) -> None:
    first, second = make("bezier", 0, [1.0, 2.0, 3.0]), make("silu", 0, [1.0, 2.0, 3.0])
    files.write_json(first.parent / "comparison" / "comparison.json", {"groups": []})
    assert report.cli([str(first), str(second)]) == 2
    assert "a file of it is not as a run writes it" in capsys.readouterr().err


def test_json_holds_the_same_without_pictures(run: RunFolder, tmp_path: Path) -> None:
    target = tmp_path / "card.json"
    assert report.cli([str(run.path), "--output", str(tmp_path / "card.html"), "--json", str(target)]) == 0
    found: dict[str, Any] = files.read_json(target)
    assert found["state"]["state"] == "done"
    assert found["metrics"][0]["metric"] == "fid"
    assert [start["after"] for start in found["starts"]] == [None, "killed"]
    assert (tmp_path / "card.html").exists()
    assert not (run.path / "report.html").exists()


def test_counts_are_no_shares_and_what_is_only_predicted_has_no_reality(run: RunFolder) -> None:
    found = facts.as_json(facts.read(run))
    (active,) = [panel for panel in found["panels"] if panel["title"] == "Active latent channels"]
    assert (active["unit"], active["series"][0]["y"][:2]) == ("", [12.0, 3.0])
    assert found["plan"][0]["tflop_an_update"] == (1.9, None)  # no row of a run holds its work


def test_curves_say_their_scale_and_their_last_values(run: RunFolder) -> None:
    log = MetricLog(run.metrics("flow"))
    for update, loss, share in ((33, 100.0, 0.5), (34, 0.5, 0.125)):
        metrics = {"flow": loss, "dead_activations": share}
        log.write("train", update=update, epoch=1, batch=1, metrics=metrics)
    text = " ".join(Page(report.write_card(run)).text.split())
    assert "Flow loss log scale last 0.5" in text
    assert "Dead activations last 12.5 %" in text
    assert "PSNR dB last 23 and 22" in text
    assert "KL nats a position last 30" in text, "no logarithm, no word of it"


def test_prompts_of_a_step_that_drops_no_caption_were_not_guided(run: RunFolder) -> None:
    record = run.read_record()
    record["steps"]["flow"]["final"] = {"prompt_accuracy": 0.5}
    run.write_record(record)
    card = facts.read(run)
    guided = card.flat["evaluation.guidance_scale"]
    for dropped, expected in ((0.1, guided), (0.0, 1.0)):
        card.values["stage"]["steps"]["flow"]["cfg_dropout_prob"] = dropped
        (found,) = [each for each in facts.results(card) if each["metric"] == "prompt_accuracy"]
        assert found["guidance"] == expected


def test_seconds_an_update_are_the_mean_of_rows_without_the_one_that_holds_what_was_compiled() -> None:
    rows: list[dict[str, Any]] = [
        {"global_step": update, "extras": {"batch_time": each}} for update, each in ((3, 9.0), (6, 2.0), (8, 1.0))
    ]
    assert facts._seconds_an_update(rows) == (3 * 2 + 2 * 1) / 5
    assert facts._seconds_an_update(rows[:1]) == 9.0
    assert facts._seconds_an_update([{"global_step": 4, "extras": {}}]) is None


def test_what_is_no_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.cli([str(tmp_path)]) == 2
    assert "there is no run in" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"no run\.json"):
        report.write_card(RunFolder(tmp_path))


def test_a_torn_file_is_said(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    (run.path / "wiring.json").write_text("{")
    assert report.cli([str(run.path)]) == 2
    assert "a file of it is not whole" in capsys.readouterr().err


def test_a_run_that_has_only_begun_has_a_card(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create(toy(tmp_path), {"name": "run", "overrides": [], "made_with": None, "upstream": {}})
    found = Page(report.write_card(folder))
    assert "new" in found.text
    assert found.data == {
        "curves": {"panels": [], "marks": found.data["curves"]["marks"], "runs": None},
        "gallery": None,
    }


def test_a_run_that_was_stopped_says_where_and_shows_its_last_metrics(run: RunFolder) -> None:
    record = run.read_record()
    del record["steps"]["flow"]
    record["restarts"] = 0
    run.write_record(record)
    run.summary.unlink()
    text = Page(report.write_card(run)).text
    assert "interrupted" in text
    assert "of 72, step 3 of 3" in text  # 24 + 16 + 32 updates
    assert "not restarted" in text
    assert "never interrupted" not in text
    found = facts.results(facts.read(run))[-1]
    assert (found["step"], found["implementation"]) == ("flow", facts.OURS)
    assert (found["metric"], found["value"], found["update"]) == ("val_psnr", 23.0, 32)  # its last held-out row


def test_a_run_that_ended_before_its_time_says_how_and_what_goes_on_with_it(run: RunFolder) -> None:
    run.summary.unlink()
    given = ["stage=vae", "resume=fresh", "data.prompt=a red square"]
    run.write_record({**run.read_record(), "closed": "stopped", "overrides": given})
    text = Page(report.write_card(run)).text
    assert (
        "It was stopped by a signal, and everything is saved. The same command goes on: "
        "python -m fluxflow_exp stage=vae 'data.prompt=a red square'"
    ) in text
    run.write_record({**run.read_record(), "closed": None})
    assert (
        "It ended without a save; what was done since the last one is done again" in Page(report.write_card(run)).text
    )
    job = RunFolder(run.path.parent / "swept" / run.frozen()["name"] / "seed=1")
    job.path.parent.mkdir(parents=True)
    run.path.rename(job.path)
    assert "The command that launched its sweep goes on with it" in Page(report.write_card(job)).text


def test_a_card_of_a_run_that_goes_on_says_when_that_was(run: RunFolder) -> None:
    run.lock()
    text = Page(report.write_card(RunFolder(run.path))).text
    run.unlock()
    assert "running" in text
    assert "as of 20" in text
    assert "The same command" not in text


def test_no_more_held_out_images_are_told_than_there_are(run: RunFolder) -> None:
    wanted, digests = run.frozen()["evaluation"]["images"], dict.fromkeys(("names", "captions", "files"), "0")
    for contents, count in (
        ({"flow": {"training": 100, "held_out": wanted - 1, **digests}}, wanted - 1),
        ({"flow": {"training": 100, "held_out": wanted + 1, **digests}}, wanted),
        ({"flow": None}, wanted),
        ({}, wanted),
    ):
        run.write_record({**run.read_record(), "contents": contents})
        assert facts.results(facts.read(run))[-1]["n"] == count


def test_what_was_not_finite_is_said_once_and_counts_the_updates_before_it(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create(toy(tmp_path), {"name": "run", "overrides": [], "made_with": None, "upstream": {}})
    folder.write_record({**folder.read_record(), "started": True})
    message = "the loss 'l1' is not finite at update 2 of step 'vae'"
    files.write_json(folder.non_finite, {"step": "vae", "update": 2, "module": None, "message": message})
    files.write_json(folder.failure, {"reason": message})
    card = facts.read(folder)
    assert (card.state.state, facts.updates(card)) == ("failed", 1)
    assert Page(report.write_card(folder)).text.count(message) == 1


def test_groups_have_the_colours_of_their_order_whatever_the_order_of_the_runs(tmp_path: Path) -> None:
    made = [make_carded(tmp_path, name, f"model.activation={name}") for name in ("bezier", "silu")]
    for order in (made, made[::-1]):
        cards = [facts.read(folder) for folder in order]
        looks = comparison._looks(cards, ["model.activation"], [card.name for card in cards])
        assert {each["name"]: each["color"] for each in looks} == {"bezier": 0, "silu": 1}


def test_a_run_leaves_its_card_and_where_its_time_went(tmp_path: Path) -> None:
    values = toy(tmp_path, "log_every=1", "stage.steps.vae.n_epochs=2", "stage.steps.vae.batch_size=8", stage="vae")
    kill = KillDuring("fluxflow_exp.trainers.base:Trainer", "_log", 5, "after")
    assert finish(values, tmp_path / "killed.log", kill) != 0
    assert finish(values, tmp_path / "done.log") == 0
    run = RunFolder(tmp_path / "vae")
    first, second = run.read_record()["starts"]
    assert (first["after"], second["after"]) == (None, "killed")
    assert second["lost"]["updates"] == 2
    assert 0 < second["lost"]["seconds"] < first["seconds"]
    assert set(second["spent"]) == {"data", "evaluation", "pictures", "saves", "compile", "training"}
    assert sum(second["spent"].values()) <= second["seconds"]
    found = Page(run.path / "report.html")
    assert "the one before was killed" in found.text
    assert found.data["gallery"]["keys"][-1]["update"] == 8


def test_a_card_that_cannot_be_written_loses_nothing(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(card: facts.Card) -> str:
        raise RuntimeError("no card today")

    monkeypatch.setattr(card_page, "write", broken)
    console = Console()
    console.log_to(run.log)
    live_report.write_card(run, console)
    assert "The run card could not be written (RuntimeError: no card today)" in capsys.readouterr().out
    assert "Traceback" in run.log.read_text(encoding="utf-8")
    assert not (run.path / "report.html").exists()
