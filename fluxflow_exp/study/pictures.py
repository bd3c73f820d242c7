"""What all arms drew of the same prompts and noise at equal budget, out of their run folders into the study's.

A run draws each prompt with the noise of its own seed, so that runs of one seed draw from the same noise as long as
their latents have one shape; the prompt is in a picture's name by its digest.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from fluxflow_exp import files
from fluxflow_exp.data.decoding import opened
from fluxflow_exp.report import gallery
from fluxflow_exp.report.gallery import Frame
from fluxflow_exp.report.panels import Track
from fluxflow_exp.run.folder import RunFolder
from fluxflow_exp.run.identity import flatten
from fluxflow_exp.run.metric_log import read_rows
from fluxflow_exp.run.sample_files import ROWS
from fluxflow_exp.study.answer import PictureRow, Pictures

FOLDER = "pictures"
MOST = 8  # prompts or images
ABOUT = 1.05  # times as many images count as equal: batches of another size end epochs at others
OURS = re.compile(r"\d{2}-\d{2}-[\w.-]*\.webp")
# <step>_<index>_<when>_<digest of the prompt><size or row>.webp
DIGEST = re.compile(rf"_(?P<digest>[0-9a-f]{{6}})(?P<size>-\d+(x\d+)?)?({'|'.join(map(re.escape, ROWS))})?\.webp")
ORIGINAL, RECONSTRUCTION = ROWS["-original"], ROWS["-nr_o"]
WATCHED = "samples."  # keys that decide how pictures are drawn


@dataclass
class _Drawn:
    """The pictures of one arm: by digest of prompt and size, with what they show; originals of images beside."""

    update: int
    shown: dict[str, tuple[Path, str]]
    originals: dict[str, Path]


def gather(runs: dict[str, dict[int, RunFolder]], folder: Path) -> Pictures | None:
    """Copy the pictures of `runs` (arm → seed → run) into `folder`/pictures, sized down; None: there are none.

    They are of the seed that most arms have, and the last ones of its last step that drew any, after about as many
    images as the arm that had fewest; arms that drew none by then are left out.
    """
    seed = _seed(runs)
    if seed is None:
        return None
    moments = {arm: found for arm, own in runs.items() if seed in own and (found := _moments(own[seed]))}
    if not moments:
        return None
    batch = {arm: _batch_size(runs[arm][seed], frames[-1].step) for arm, frames in moments.items()}
    least = min(frames[-1].update * batch[arm] for arm, frames in moments.items())
    drawn = {
        arm: _drawn(before[-1])
        for arm, frames in moments.items()
        if (before := [each for each in frames if each.update * batch[arm] <= ABOUT * least])
    }
    rows, damaged = _rows(drawn, list(runs), folder / FOLDER)
    if not rows:
        return None
    differs = _differs({arm: runs[arm][seed] for arm in drawn})
    return Pictures(seed, {arm: each.update for arm, each in drawn.items()}, rows, damaged, differs)


def _seed(runs: dict[str, dict[int, RunFolder]]) -> int | None:
    """The seed that most arms have, of several the smallest."""
    count: dict[int, int] = {}
    for own in runs.values():
        for seed in own:
            count[seed] = count.get(seed, 0) + 1
    return min(count, key=lambda seed: (-count[seed], seed), default=None)


def _moments(run: RunFolder) -> list[Frame]:
    """The moments of the last step that has drawn pictures, in order."""
    track = Track({step: read_rows(run.metrics(step)) for step in run.frozen()["stage"]["steps"]})
    found = gallery.frames(track, run.samples)
    return [frame for frame in found if frame.step == found[-1].step]


def _batch_size(run: RunFolder, step: str) -> int:
    return int(run.frozen()["stage"]["steps"][step]["batch_size"])


def _drawn(frame: Frame) -> _Drawn:
    made = _Drawn(frame.update, {}, {})
    for label, items in frame.rows:
        for path, caption in items:
            named = DIGEST.search(path.name)
            if not named:
                continue
            key = named["digest"] + (named["size"] or "")
            if label == ORIGINAL:
                made.originals[key] = path
            elif label in ("", RECONSTRUCTION):
                made.shown[key] = (path, caption)
    return made


def _rows(drawn: dict[str, _Drawn], arms: list[str], folder: Path) -> tuple[list[PictureRow], list[str]]:
    """Copy what is shown; rows that few arms have come last, if there is room. The rows, and files that are damaged."""
    order = {key: caption for each in drawn.values() for key, (_, caption) in each.shown.items()}
    having = {key: sum(key in each.shown for each in drawn.values()) for key in order}
    rows, written, damaged = [], set(), []
    for number, key in enumerate(sorted(order, key=lambda key: -having[key])[:MOST]):
        names: dict[str, str] = {}
        originals = [each.originals[key] for each in drawn.values() if key in each.originals]
        sources = {arm: each.shown[key][0] for arm, each in drawn.items() if key in each.shown}
        for arm, source in [*sources.items(), *(("", path) for path in originals[:1])]:
            name = (
                f"{number:02d}-{arms.index(arm) + 1:02d}-{_plain(arm)}.webp" if arm else f"{number:02d}-00-image.webp"
            )
            if _copy(source, folder / name):
                names[arm] = f"{FOLDER}/{name}"
                written.add(name)
            else:
                damaged.append(str(source))
        original = names.pop("", None)
        if names:
            rows.append(PictureRow(order[key] or f"held-out image {number + 1}", names, original))
    for old in folder.iterdir() if folder.is_dir() else []:
        if OURS.fullmatch(old.name) and old.name not in written:
            old.unlink()
    return rows, damaged


def _copy(source: Path, target: Path) -> bool:
    """Sized down; one that is small already is taken as it is. Whether it is a whole picture."""
    try:
        raw = source.read_bytes()
        with opened(source) as image:
            image.load()
            if len(raw) > gallery.KEPT or max(image.size) > gallery.SIDE:
                raw = gallery.smaller(image)
    except OSError:
        return False

    def write(temporary: Path) -> None:
        temporary.write_bytes(raw)

    files.write_atomically(target, write)
    return True


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)[:60]


def _differs(runs: dict[str, RunFolder]) -> str:
    """Name the settings of pictures that are not the same in all runs."""
    settings = [
        {key: value for key, value in flatten(run.frozen()) if key.startswith(WATCHED) and "every" not in key}
        for run in runs.values()
    ]
    keys = dict.fromkeys(key for each in settings for key in each)
    apart = [key for key in keys if any(each.get(key) != settings[0].get(key) for each in settings)]
    return f"{', '.join(apart)} {'is' if len(apart) == 1 else 'are'} not the same in all arms" if apart else ""
