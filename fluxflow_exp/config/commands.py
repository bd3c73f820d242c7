"""The commands beside training: `python -m fluxflow_exp.NAME`."""

import difflib
import shlex

COMMANDS = {
    "generate": "pictures from prompts",
    "evaluate": "held-out quality of a trained model",
    "compare": "groups of runs, at equal budget",
    "study": "a question, answered by runs",
    "match": "a model as large or slow as another",
    "status": "what has become of runs",
    "reference": "whether a run is on track, by others",
    "report": "a run's card; several runs on a page",
    "plot": "the graphs of runs",
    "plan": "memory, time, money, disk of a run",
    "benchmark": "how fast each step is here",
    "wiring": "whether all that is configured acts",
    "replay": "an update again: what was not finite",
    "drill": "whether a configuration bears kills",
    "verify": "whether a run is what was written",
    "sync": "offline W&B records sent",
    "convert": "FluxFlow Training's YAML and weights",
    "export": "a model for diffusers or ComfyUI",
    "data.check": "pictures and captions, before a run",
    "data.pack": "a folder as WebDataset shards",
    "data.shard_index": "indices of shards, for object storage",
}
SWEEP = ("-m", "--multirun")


def listed() -> str:
    """One line for each command."""
    width = max(map(len, COMMANDS))
    lines = [f"  python -m fluxflow_exp.{name:<{width}}  {purpose}" for name, purpose in COMMANDS.items()]
    return "\n".join(["Further commands, each with a --help of its own:", *lines])


def meant(arguments: list[str]) -> str | None:
    """What to type where the first argument is nearly the name of a command, or a study is set; None: neither."""
    first = arguments[0] if arguments else ""
    for place, word in enumerate(arguments):
        key, equals, name = word.partition("=")
        if equals and key.lstrip("+") == "study":
            others = [each for each in [*arguments[:place], *arguments[place + 1 :]] if each not in SWEEP]
            return f"a study is a command of its own:\n  {_called('study', [name, *others])}"
    if not first or first[0] in "-+~" or "=" in first:
        return None
    by_word = {name.rpartition(".")[2]: name for name in COMMANDS} | {name: name for name in COMMANDS}
    near = difflib.get_close_matches(first, by_word, 1, 0.75)
    if not near:
        return None
    name = by_word[near[0]]
    return f"{first!r} is no override (KEY=VALUE). The command {name} is called so:\n  {_called(name, arguments[1:])}"


def _called(name: str, words: list[str]) -> str:
    return shlex.join(["python", "-m", f"fluxflow_exp.{name}", *words])
