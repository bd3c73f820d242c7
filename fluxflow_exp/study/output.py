"""The files of an answer: study.json, the page, the Markdown, and their pictures."""

from pathlib import Path

from fluxflow_exp.study import answer, markdown, page
from fluxflow_exp.study.answer import StudyAnswer


def write(made: StudyAnswer, folder: Path) -> list[Path]:
    """Write all files of an answer into `folder`, where `pictures.gather` has put its pictures; the page first."""
    shown = [page.write(made, folder), markdown.write(made, folder)]
    numbers = folder / "study.json"
    answer.write(made, numbers)  # last: it says of which form of the study the page is
    return [*shown, numbers]
