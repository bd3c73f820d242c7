"""What a study came to: the content of `study.json`, of which the page, the Markdown and W&B's tables are drawn.

Nothing is measured or judged from runs here. Differences are an arm's value less the reference's, in the metric's own
unit; the reference is the first arm.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Interval
from pydantic import FiniteFloat, TypeAdapter, ValidationError

from fluxflow_exp import files

FORMAT = 1
AT_THE_END = "the end of each run"  # where runs that ended after different numbers of images were measured
Count = Annotated[int, Ge(0)]
Amount = Annotated[FiniteFloat, Ge(0)]


@dataclass(frozen=True)
class Failure:
    """A run that gave no value: it diverged, ended by an error, or was given up."""

    seed: int
    reason: str  # as its failure.json has it, on one line


@dataclass(frozen=True)
class Cost:
    """All runs of an arm together, with those that failed and those that chose a learning rate."""

    hours: Amount  # of all devices together
    unit: str = "GPU hours"  # or "hours", without a GPU
    runs: Count = 0
    price: Amount | None = None  # US dollars
    tflop: Amount | None = None  # one finished run
    memory_gib: Amount | None = None  # highest, of one device


@dataclass(frozen=True)
class LearningRate:
    """How an arm came by a learning rate of its own."""

    chosen: FiniteFloat
    tried: dict[str, FiniteFloat | None]  # rate as a user writes it → the metric; None: that run failed
    metric: str  # by which it was chosen
    data: str  # on what, in words: "64 held-out images, seed 100, which judges no arm"


@dataclass(frozen=True)
class Arm:
    name: str
    overrides: list[str]  # beside those that all arms have
    seeds: list[int]  # whose runs are finished, in order
    cost: Cost
    failures: list[Failure] = field(default_factory=list)
    parameters: Count | None = None
    learning_rate: LearningRate | None = None  # None: that of the configuration


# One field for each thing that a sentence says of a difference.
@dataclass(frozen=True)
class Difference:
    """An arm's mean less the reference's. Without an interval (one seed), `low` and `high` are None."""

    arm: str
    mean: FiniteFloat
    low: FiniteFloat | None
    high: FiniteFloat | None
    seeds: list[Count]  # [pairs of runs with one seed], or [of the arm, of the reference] where they do not pair
    correction: str | None = None  # "Holm, 3 pairs", "group-sequential"
    confidence: Annotated[float, Interval(ge=0, le=1)] = 0.95  # of this one alone, where several are judged together
    detectable: Amount | None = None  # true difference that these seeds would have shown in four of five tries
    needed: Count | None = None  # seeds of each arm that would show `Outcome.smallest`, else the observed difference

    @property
    def shown(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Outcome:
    """One metric at the equal budget. An arm without a finished run has neither values nor a difference."""

    metric: str
    higher: bool  # whether more of it is better
    values: dict[str, dict[int, FiniteFloat]]  # arm → seed → value
    differences: list[Difference]  # of every arm but the reference
    smallest: Amount | None = None  # difference worth seeing
    at: str = ""  # the equal budget in words: "update 2,000", "20 GPU-minutes"


@dataclass(frozen=True)
class Line:
    """An arm's mean over seeds and its 95 % interval (None: one seed); all of one length."""

    arm: str
    x: list[FiniteFloat]
    mean: list[FiniteFloat]
    low: list[FiniteFloat] | None = None
    high: list[FiniteFloat] | None = None


@dataclass(frozen=True)
class Curves:
    metric: str
    axis: str  # "updates", "images", "TFLOP", "seconds of training"
    lines: list[Line]


@dataclass(frozen=True)
class PictureRow:
    """What all arms made of one prompt and one noise, or of one image."""

    prompt: str
    files: dict[str, str]  # arm → name below the study's folder
    original: str | None = None  # the image itself, where arms reconstruct it


@dataclass(frozen=True)
class Pictures:
    seed: int
    at: dict[str, Count]  # arm → update after which its pictures were made
    rows: list[PictureRow]
    damaged: list[str] = field(default_factory=list)  # files that could not be shown
    differs: str = ""  # what beside the arms' models made them differ: "samples.guidance_scale is not the same in all"


# One field for each part of the page.
@dataclass(frozen=True)
class StudyAnswer:
    """ValueError: it is made of parts that do not fit together."""

    name: str
    question: str
    equal: str  # parameters | flops | memory | time | nothing
    arms: list[Arm]  # the reference first
    outcomes: list[Outcome]  # the first one decides
    commands: list[str]  # that repeat the study
    curves: list[Curves] = field(default_factory=list)
    pictures: Pictures | None = None
    notes: list[str] = field(default_factory=list)  # what must be known beside what limits.py says by itself
    stopped: str | None = None  # why there are no more seeds: "the difference was shown after 5 seeds"
    unfinished: str | None = None  # "4 of 6 runs are done"; None: the study is finished
    base: list[str] = field(default_factory=list)  # overrides that all arms have
    date: str = ""  # ISO 8601
    form: str = ""  # digest of what the study asked; "": older versions kept none

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise ValueError(problem)

    @property
    def reference(self) -> Arm:
        return self.arms[0]

    @property
    def deciding(self) -> Outcome:
        return self.outcomes[0]

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)


_READER = TypeAdapter(StudyAnswer)


def write(answer: StudyAnswer, path: Path) -> None:
    files.write_json(path, {"format": FORMAT, **asdict(answer)})


def read(path: Path) -> StudyAnswer:
    """DamagedError: the file is not whole, or not what `write` makes."""
    found: dict[str, Any] = files.read_fields(path, format=int)
    if found["format"] != FORMAT:
        raise files.DamagedError(
            f"{path} has format {found['format']}; this version reads {FORMAT}. The study's command writes it again"
        )
    try:
        return _READER.validate_python(found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        raise files.DamagedError(
            f"{path} is damaged: {f'{where}: ' if where else ''}{said}. The study's command writes it again"
        ) from error


def _problem(answer: StudyAnswer) -> str | None:
    """Say which part does not fit the others."""
    names = [arm.name for arm in answer.arms]
    if len(names) < 2 or len(set(names)) < len(names):
        return f"arms: two or more of different names are wanted, not {names}"
    if not answer.outcomes:
        return "outcomes: there is none"
    used: list[tuple[str, list[str]]] = []
    for outcome in answer.outcomes:
        used.append((f"outcome {outcome.metric}", [*outcome.values, *(each.arm for each in outcome.differences)]))
        if any(each.arm == names[0] for each in outcome.differences):
            return f"outcome {outcome.metric}: {names[0]} is the reference, and differs from nothing"
        if any((each.low is None) != (each.high is None) for each in outcome.differences):
            return f"outcome {outcome.metric}: an interval has two ends or none"
        if any(len(each.seeds) not in (1, 2) for each in outcome.differences):
            return f"outcome {outcome.metric}: seeds are [pairs] or [of the arm, of the reference]"
    for each in answer.curves:
        used.append((f"curves of {each.metric}", [line.arm for line in each.lines]))
        if any(len({len(part) for part in _parts(line)}) != 1 for line in each.lines):
            return f"curves of {each.metric}: a line's numbers are not as many as its places"
    for row in answer.pictures.rows if answer.pictures else []:
        used.append((f"pictures of {row.prompt!r}", list(row.files)))
        if any(
            Path(name).is_absolute() or ".." in Path(name).parts for name in (*row.files.values(), row.original or "")
        ):
            return f"pictures of {row.prompt!r}: files stand below the study's folder"
    unknown = [f"{where}: there is no arm {name!r}" for where, some in used for name in some if name not in names]
    return unknown[0] if unknown else None


def _parts(line: Line) -> list[list[float]]:
    return [part for part in (line.x, line.mean, line.low, line.high) if part is not None]
