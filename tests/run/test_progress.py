"""Of two copies of a run, the one that is further is the greater."""

from fluxflow_exp.run.progress import Progress

DIGEST = "0123456789abcdef"


def of(*names: str, finished: int = 0, complete: bool = False) -> Progress:
    return Progress.of([f"{name}-{DIGEST}.pt" for name in names], finished=finished, complete=complete)


def test_copies_in_the_order_of_what_is_done() -> None:
    copies = [
        of(),
        of("01-vae-00000090"),
        of("01-vae-00000100", "01-vae-00000020"),
        of("01-vae-00000100-final"),
        of("01-vae-00000100-final", finished=1),
        of("01-vae-00000100-final", "02-flow-00000010", finished=1),
        of("02-flow-00000010", finished=1, complete=True),
    ]
    assert copies == sorted(copies)
    assert len(set(copies)) == len(copies)
    assert list(map(str, copies)) == [
        "its beginning", "vae, update 90", "vae, update 100", "vae, update 100", "vae, update 100",
        "flow, update 10", "complete",
    ]  # fmt: skip


def test_other_files_and_the_name_of_a_step_do_not_count() -> None:
    assert Progress.of(["01-vae-00000090.pt", "notes.txt"], finished=0, complete=False) == of()
    assert of("01-a-00000010") == of("01-b-00000010")
