"""The summary of a run: whether a step is finished, and `summary.json`."""

from pathlib import Path
from typing import Any

from fluxflow_exp import files
from fluxflow_exp.config import published
from fluxflow_exp.console import Console
from fluxflow_exp.errors import counted
from fluxflow_exp.models.facts import moment, read_facts
from fluxflow_exp.run import judged
from fluxflow_exp.run.folder import RunFolder


def is_finished(entry: dict[str, Any] | None, planned: dict[str, Any]) -> bool:
    """Whether the record's entry of a step says that it was trained to its end, its transition's if it has one.

    `planned`: the record's as well; what the step's length would be with the data of today does not matter.
    """
    return entry is not None and (entry["updates"] == planned["updates"] or "ended_by" in entry)


def write(folder: RunFolder, console: Console) -> None:
    """Write `summary.json`, the run's last file, and say what came out."""
    record = folder.read_record()
    metrics: dict[str, Any] = {}
    for step in record["steps"].values():
        metrics |= step["final"]
    by_attribute = {
        key.removeprefix("prompt_accuracy_"): metrics.pop(key)
        for key in sorted(metrics)
        if key.startswith("prompt_accuracy_")
    }
    if by_attribute:
        metrics["prompt_accuracy_by_attribute"] = by_attribute
    summary = {
        "name": record["name"],
        "steps": record["steps"],
        "metrics": metrics,
        "wall_seconds": record["wall_seconds"],
        "restarts": record["restarts"],
    }
    unreadable = files.count_lines(folder.bad_samples)
    if unreadable:
        summary["unreadable_samples"] = unreadable
    files.write_json(folder.summary, summary)
    console.say(f"\nPIPELINE TRAINING COMPLETE in {summary['wall_seconds']:.0f} s")
    for name, value in metrics.items():
        console.say(f"  {name}: {_rounded(value)}")
    if unreadable:
        console.say(f"  unreadable: {counted(unreadable, 'sample')}, listed with the reasons in {folder.bad_samples}")
    if any(folder.samples.glob("*")):
        console.say(f"  pictures: {folder.samples}")
    console.say(f"  graphs:   {folder.graph}")
    final = folder.weights / "final.safetensors"
    console.say(f"  weights:  {final}{_point(final)}")
    for adapter in files.matching(folder.path / "weights", "*.lora.safetensors"):
        console.say(f"  adapter:  {adapter}")
    if "flow_processor" in _parts(record, folder):
        console.say(
            f"Generate: {_command(final)} --model_checkpoint {final} --text_prompts_path prompts.txt "
            f"--output_path out{_guidance(folder)}"
        )


def _rounded(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_rounded(each)}" for name, each in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _command(final: Path) -> str:
    """The command that generates: classes of the user's own are named to it, and looked for in the current folder."""
    from fluxflow_exp.models.weights import GENERATION_PARTS, own_words

    words = own_words(read_facts(final), GENERATION_PARTS)
    return f"python -m fluxflow_exp.generate {published.trusting(words)}" if words else "fluxflow-generate"


def _point(final: Path) -> str:
    facts = read_facts(final)
    return "".join(f" (step {step} {moment(facts, step)})" for step in facts.get("best", {}))


def _guidance(folder: RunFolder) -> str:
    """Return the options of the guidance that the run is judged at, if its last flow step left captions out."""
    values = folder.frozen()
    steps = [step for step in values["stage"]["steps"].values() if "objective" in step["trainer"]]
    scale, interval = judged.guidance(values)
    if not steps or steps[-1]["cfg_dropout_prob"] == 0 or scale == 1:
        return ""
    times = f" --guidance_interval {interval[0]:g} {interval[1]:g}" if interval else ""
    return f" --use_cfg --guidance_scale {scale:g}{times}"


def _parts(record: dict[str, Any], folder: RunFolder) -> list[str]:
    return list(read_facts(folder.weights / "final.safetensors")["trained"])
