"""A study's answer with all that a page can show, made without a run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from fluxflow_exp.study.answer import (
    Arm,
    Cost,
    Curves,
    Difference,
    Failure,
    LearningRate,
    Line,
    Outcome,
    PictureRow,
    Pictures,
    StudyAnswer,
)

X = [500.0, 1000.0, 1500.0, 2000.0]


def difference(low: float | None, high: float | None, *, arm: str = "bezier", **changes: Any) -> Difference:
    """The interval's middle is the mean; without one it is 0.5."""
    mean = 0.5 if low is None or high is None else (low + high) / 2
    return replace(Difference(arm, mean, low, high, [3], detectable=0.8, needed=12), **changes)


def made_answer(found: Difference | None = None, **changes: Any) -> StudyAnswer:
    """Three arms: silu is the reference, bezier differs by `found`, one run of relu failed, and its mean is worse."""
    rate = LearningRate(3e-4, {"0.0001": 0.52, "0.0003": 0.49, "0.001": None}, "val_flow", "held-out images, seed 100")
    arms = [
        Arm("silu", ["model.activation=silu"], [0, 1, 2], Cost(1.5, runs=3, tflop=42.0), parameters=4_100_000),
        Arm("bezier", ["model.activation=bezier"], [0, 1, 2], Cost(2.75, runs=6, tflop=44.0), [], 4_090_000, rate),
        Arm("relu", ["model.activation=relu"], [0, 1], Cost(1.25, runs=3), [Failure(2, "flow was not finite")]),
    ]  # fmt: skip
    values = {
        name: {seed: 20 + seed + at for seed in (0, 1)} for name, at in (("silu", 0.0), ("bezier", 0.5), ("relu", -2.0))
    }
    differences = [found or difference(0.2, 0.8), difference(-2.5, -1.5, arm="relu", seeds=[2])]
    second = Outcome("val_l1", False, {}, [difference(-0.02, 0.03), difference(None, None, arm="relu", seeds=[1])])
    parts: dict[str, Any] = {
        "name": "activation",
        "question": "Does a Bezier activation pay in the flow transformer?",
        "equal": "parameters",
        "arms": arms,
        "outcomes": [Outcome("val_psnr", True, values, differences, at="update 2,000"), second],
        "commands": ["python -m fluxflow_exp.study activation"],
        "curves": [Curves("val_psnr", "updates", [_line(arm.name, place) for place, arm in enumerate(arms)])],
        "notes": ["not all runs were made on one kind of machine"],
        "base": ["stage=flow", "data=shapes"],
        "date": "2026-01-02T03:04:05+00:00",
    }
    return StudyAnswer(**{**parts, **changes})


def pictured(folder: Path, answer: StudyAnswer) -> StudyAnswer:
    """The same with two prompts' pictures below `folder`; relu has none of the second."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    rows = []
    for number, prompt in enumerate(('a red <b>disc</b> & "ring"', "a white ring")):
        names = {}
        for shade, arm in enumerate(answer.arms):
            if number and arm.name == "relu":
                continue
            names[arm.name] = f"pictures/{arm.name}-{number}.webp"
            Image.new("RGB", (32, 32), (80 * shade, 90, 160)).save(folder / names[arm.name], lossless=True)
        rows.append(PictureRow(prompt, names))
    return replace(answer, pictures=Pictures(0, {arm.name: 2000 for arm in answer.arms}, rows))


def _line(arm: str, place: int) -> Line:
    mean = [16 + place + x / 500 for x in X]
    return Line(arm, X, mean, [value - 0.4 for value in mean], [value + 0.4 for value in mean])
