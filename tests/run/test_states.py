"""The table of runs on a terminal."""

from fluxflow_exp.run import states
from fluxflow_exp.run.states import FAILED, RUNNING, Entry

ROWS = [
    ("model.activation=bezier seed=0", Entry(RUNNING, "vae, update 340; continued 2 times")),
    (
        "a-job-whose-name-is-longer-than-half-of-the-columns-are-wide",
        Entry(FAILED, "the loss 'kl' is not finite at update 12 of step 'vae' (log: outputs/two/log.txt)"),
    ),
]


def test_on_a_terminal_nothing_is_wider_than_it_and_no_word_is_lost() -> None:
    lines = states.table(ROWS, columns=80).splitlines()
    assert max(map(len, lines)) <= 80
    words = " ".join(lines).split()
    for name, entry in ROWS:
        for word in [*name.split(), entry.state, *entry.note.split()]:
            assert word in words
    assert lines[-1] == "  2 jobs: 1 running, 1 failed"


def test_elsewhere_each_run_has_a_line() -> None:
    assert len(states.table(ROWS[:1]).splitlines()) == 2


def test_a_reason_that_announces_more_is_told_whole_and_another_by_its_first_line() -> None:
    assert states.in_a_line("minutes=1 is too short:\n    flow takes 14 s\n  Ask for minutes=2") == (
        "minutes=1 is too short: flow takes 14 s Ask for minutes=2"
    )
    assert states.in_a_line("no space left\nTraceback: …") == "no space left"
