"""`python -m fluxflow_exp.data.check FOLDER`: every picture is read before GPU time is spent on it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fluxflow_exp.errors import UserError
from fluxflow_exp.run import failures

if TYPE_CHECKING:
    from fluxflow_exp.data.check.wanted import Wanted

OF_A_RUN = ("img_size", "batch_size", "epochs", "text_limit")  # options that the words of a run say otherwise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fluxflow_exp.data.check",
        description="Read every picture of a folder as training would, and say what is wrong or odd: pictures that "
        "cannot be read, modes, sizes, copies, captions, how long training will be. No picture is changed.",
        epilog="Examples: python -m fluxflow_exp.data.check photos captions.tsv --fix clean.jsonl; or the words of a "
        "training command, whose sizes, split, steps and text encoder are then used: python -m fluxflow_exp.data.check "
        "stage=full model=compact data=image_folder data.data_path=photos data.captions_file=captions.tsv. "
        "Exit code: 0, 1 if some pictures or captions are lost to training, 2 if there is nothing to check.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "words", nargs="+", metavar="FOLDER [CAPTIONS]",
        help="folder, and file of captions or sidecar, as of data=image_folder (default: metadata.jsonl, .csv or "
        ".parquet in the folder, else texts beside the pictures); or KEY=VALUE words",
    )  # fmt: skip
    parser.add_argument("--img_size", type=int, default=256, help="pixels that pictures are trained at")
    parser.add_argument("--batch_size", type=int, default=32, help="pictures an update")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--text_limit", type=int, default=256, help="bytes of a caption that the text encoder reads")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that read; default: one a CPU")
    parser.add_argument("--output", type=Path, metavar="FILE", default=Path("data_check.html"), help="the page")
    parser.add_argument("--fix", type=Path, metavar="FILE", help="write cleaned captions to FILE.jsonl")
    parser.add_argument("--config-dir", help="the folder of your own groups, for KEY=VALUE words")
    return parser


@failures.command
def cli(arguments: list[str] | None = None) -> int:
    options = _parser().parse_intermixed_args(arguments)
    # What is needed to read is imported here: --help does without.
    from fluxflow_exp.data.check import findings, fix, output, page
    from fluxflow_exp.data.check.survey import Survey, processes

    wanted = _wanted(options)
    if options.fix:
        fix.check_target(options.fix, wanted.folder)
        if wanted.captions_file is None:
            raise UserError(f"--fix: there are no captions in {wanted.folder}; name their file")
    survey = Survey(wanted, workers=options.workers or processes())
    found = findings.findings(survey)
    print(output.report(survey, found))
    if options.fix:
        dropped = fix.fix(survey, options.fix)
        print(output.fixed(options.fix, dropped, held_out=wanted.held_out_file is not None))
    page.write(survey, found, options.output)
    print(f"\npage: {options.output}")
    return 1 if any(each.rank == findings.LOST for each in found) else 0


def _wanted(options: argparse.Namespace) -> Wanted:
    """What the words ask for. UserError: they make no sense."""
    from fluxflow_exp.data.check import wanted

    for name in ("img_size", "batch_size", "epochs", "text_limit", "workers"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} must be at least 1, not {value}")
    words = options.words
    if any("=" in word for word in words) and not Path(words[0]).is_dir():
        set_twice = [f"--{name}" for name in OF_A_RUN if getattr(options, name) != _parser().get_default(name)]
        if set_twice:
            raise UserError(f"{', '.join(set_twice)}: with the words of a training command, these are its own")
        return wanted.of_overrides(words, config_dir=options.config_dir)
    if len(words) > 2:
        raise UserError(f"a folder and one file of captions, not {len(words)} words: {' '.join(words)}")
    return wanted.of_folder(
        Path(words[0]), words[1] if len(words) > 1 else None,
        img_size=options.img_size, text_limit=options.text_limit, batch_size=options.batch_size, epochs=options.epochs,
    )  # fmt: skip
