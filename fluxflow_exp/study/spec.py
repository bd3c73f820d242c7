"""A study as its file says it: the question, the arms, and what decides; read, changed by overrides, and checked.

What the arms are composed to is looked at in `arms.py`.
"""

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from fluxflow_exp.config.override_keys import key_of, merged
from fluxflow_exp.config.schema import RunConfig
from fluxflow_exp.errors import UserError, did_you_mean, suggest_key
from fluxflow_exp.run import lookup
from fluxflow_exp.study.fields import WORD, Rates, checked, words_of

KEYS = (
    "question", "base", "arms", "equal", "budget", "outcome", "seeds", "smallest_difference", "where",
    "learning_rates", "evaluate", "side_by_side",
)  # fmt: skip
NEEDED = ("question", "arms", "outcome")
SHIPPED = Path(__file__).parent / "shipped"  # not in conf/, where a folder is a group of the training command
OWN = {"seed": "the study's `seeds` sets it", "name": "say name=… on the command line"}


# One field for each key of the file, and where it was found.
@dataclass(frozen=True)
class Spec:
    name: str  # of the study's folder
    source: Path
    question: str
    arms: dict[str, list[str]]  # name → overrides; the first is the reference
    outcome: list[str]  # metrics; the first decides
    base: list[str]  # overrides that all arms have
    equal: str  # of EQUAL
    seeds: list[int] | None  # None: as many as are needed (auto)
    where: str  # of WHERE
    gpu_hours: float | None = None
    runs: int | None = None
    smallest_difference: float | None = None  # of the first outcome, in its unit
    learning_rates: Rates | None = None
    evaluate: tuple[str, ...] = ()  # options of fluxflow_exp.evaluate
    side_by_side: int = 1  # runs that share a GPU, or this machine's CPU
    root: str = "outputs"  # folder of the study's folder
    config_dir: str | None = None  # folder of groups of the user's own

    @property
    def folder(self) -> Path:
        return Path(self.root).expanduser() / self.name

    @property
    def reference(self) -> str:
        return next(iter(self.arms))


class SpecError(UserError):
    """All that is wrong with a study's own keys; the `spec` without them, of which its arms may be looked at."""

    def __init__(self, *problems: str, spec: Spec | None) -> None:
        super().__init__(*problems)
        self.spec = spec


def shipped() -> list[str]:
    """Names of the studies of `shipped/`."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load(source: str, words: list[str], *, config_dir: str | None = None) -> Spec:
    """The study that `source` names (one of `shipped`, a file, or a folder with a study.yaml), changed by `words`.

    A word whose key is one of the study's own changes that; any other one is an override of all arms. SpecError: all
    that is wrong with them.
    """
    path, groups = _found(source)
    raw = _read(path)
    unknown = [f"{path}: there is no key {key!r}{_instead(key)}" for key in raw if key not in KEYS]
    given, own, problems = _sorted_out(words)
    for key, value in own:
        problems += _put(raw, key, value)
    missing = [f"{path}: {key} is missing" for key in NEEDED if raw.get(key) is None]
    wrong: list[str] = []  # in the file's values
    base = merged(words_of(raw.get("base") or [], "base", wrong), given)
    name = _taken(base, "name") or (path.parent.resolve().name if path.name == "study.yaml" else path.stem)
    root = _taken(base, "output_root") or "outputs"
    spec = Spec(
        name=name,
        source=path,
        base=[word for word in base if key_of(word) not in ("name", "output_root")],
        root=root,
        config_dir=config_dir or groups,
        **checked(raw, wrong),
    )
    if not WORD.fullmatch(name):
        wrong.append(f"name={name}: letters, digits, dot, dash and underscore make a folder's name")
    wrong += _own_words(spec)
    if spec.side_by_side > 1 and spec.where != "here":
        wrong.append("side_by_side is for where: here; what jobs share is the scheduler's to say")
    if spec.seeds is None and spec.smallest_difference is None and spec.gpu_hours is None and spec.runs is None:
        wrong.append("seeds: auto ends by smallest_difference or by budget: give one of them")
    keys = [*unknown, *missing, *problems]
    if keys or wrong:
        # Of arms nothing is known where a key that is not read may have been meant for them.
        raise SpecError(*keys, *(f"{path}: {line}" for line in wrong), spec=None if keys or not spec.arms else spec)
    return spec


def _instead(key: str) -> str:
    """What to do in the place of a key that a study's file does not have."""
    if key in ("name", "output_root"):
        return f": say {key}=… on the command line. Without a name the study is called as its file"
    return did_you_mean(key, KEYS) or f". There are: {', '.join(KEYS)}. What all arms have stands in base"


def _found(source: str) -> tuple[Path, str | None]:
    """The file that is meant, and the folder of groups beside it."""
    path = Path(source).expanduser()
    if path.is_dir():
        inside = path / "study.yaml"
        if not inside.is_file():
            raise UserError(f"{path} is a folder without a study.yaml")
        return inside, str(path)
    if path.is_file():
        return path, None
    known = shipped()
    if source in known:
        return SHIPPED / f"{source}.yaml", None
    hints = [did_you_mean(source, known), lookup.nearest(path, suffix=".yaml")]
    if path.suffix or len(path.parts) > 1:
        hints.reverse()  # a file is meant
    raise UserError(f"there is no study {source!r}{hints[0] or hints[1] or '.'} Shipped: {', '.join(known)}; or "
                    "name a file of your own, or a folder with a study.yaml")  # fmt: skip


class _EachOnce(yaml.SafeLoader):  # type: ignore[misc]
    """YAML whose keys stand once: of two arms of one name, the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value} stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        found: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return found


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _EachOnce)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        way = "" if "twice" in str(error) else ". Quotes keep a text with a colon together"
        raise UserError(f"{path} is no YAML of a study: {_at(error)}{way}") from error
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise UserError(f"{path}: keys of a study are wanted: {', '.join(KEYS)}")
    return raw


def _at(error: yaml.YAMLError | UnicodeDecodeError) -> str:
    """What a file is not read for, and where."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


def _sorted_out(words: list[str]) -> tuple[list[str], list[tuple[str, Any]], list[str]]:
    """Overrides of all arms; keys of the study with their values; what is wrong."""
    given, own, problems = [], [], []
    runs_keys = [field.name for field in fields(RunConfig)]
    for word in words:
        key, sign, text = word.partition("=")
        first = re.split("[.@/]", key)[0]
        if first not in KEYS:
            own_key = "" if first in runs_keys or first.startswith(("+", "~")) else suggest_key(first, KEYS)
            if own_key:
                problems.append(f"{word}: there is no key {first!r}{own_key}")
            else:
                given.append(word)
        elif not sign:
            problems.append(f"{word}: a value is wanted, {word}=…")
        else:
            try:
                own.append((key, yaml.safe_load(text)))
            except yaml.YAMLError:
                problems.append(f"{word}: {text!r} is no value of YAML")
    return given, own, problems


def _put(raw: dict[str, Any], key: str, value: Any) -> list[str]:
    *sections, last = key.split(".", 1)
    there: Any = raw
    for section in sections:
        if there.get(section) is None:
            there[section] = {}
        there = there[section]
        if not isinstance(there, dict):
            return [f"{key}: {section} has no keys below it"]
    named = {str(each): each for each in there}  # an arm's name may be a number
    if value is not None:
        there[named.get(last, last)] = value
    elif sections == ["arms"] and last not in named:
        return [f"{key}=null: there is no arm {last!r}{did_you_mean(last, named) or '.'} There are: {', '.join(named)}"]
    else:
        there.pop(named.get(last, last), None)  # arms.NAME=null leaves an arm out
    return []


def _taken(base: list[str], key: str) -> str | None:
    found = [word.partition("=")[2] for word in base if key_of(word) == key]
    return found[-1] if found else None


def _own_words(spec: Spec) -> list[str]:
    """Keys that the study sets itself, and that no arm or base may."""
    lists = {"base": spec.base, **{f"arms.{name}": words for name, words in spec.arms.items()}}
    found = []
    for where, words in lists.items():
        for word in words:
            key = key_of(word)
            if key.startswith("hydra"):
                found.append(f"{where}: {word}: `where` of the study says how jobs are started")
            elif key in OWN:
                found.append(f"{where}: {word}: {OWN[key]}")
            elif key == "output_root":
                found.append(f"{where}: {word}: all arms stand in one folder; give it on the command line")
            elif spec.learning_rates and key == spec.learning_rates.key:
                found.append(f"{where}: {word}: learning_rates chooses {key}")
    return found
