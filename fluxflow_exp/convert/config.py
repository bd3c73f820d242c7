"""YAML of FluxFlow Training, flat or `training.pipeline.steps`, → a stage file that runs here."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from fluxflow_exp import files
from fluxflow_exp.convert import keys
from fluxflow_exp.convert.data import datasets_of
from fluxflow_exp.convert.keys import Report, number
from fluxflow_exp.convert.steps import Node, steps_of
from fluxflow_exp.convert.translated import Translated
from fluxflow_exp.errors import UserError, counted

OLD_LIST = """training.pipeline is a list, the form of versions before 0.2; write the steps below `steps:`:
    training:
      pipeline:
        steps:
          - name: …"""


def convert(source: Path, output: Path, *, text_encoder: str | None = None, model: str = "fluxflow") -> list[str]:
    """Write `output` (…/stage/NAME.yaml); returns lines for the user. UserError: all that stands against it."""
    if output.parent.name != "stage" or output.suffix != ".yaml":
        raise UserError(f"OUT must be a stage file, e.g. converted/stage/{source.stem}.yaml, not {output}")
    if output.exists():
        raise UserError(f"{output} exists; remove it or name another file")
    old, report = _read(source), Report()
    _check(old, report)
    report.raise_if_refused(source)
    new = _translate(old, source, output.stem, report, text_encoder=text_encoder, model=model)
    report.raise_if_refused(source)
    files.write_text(output, f"# @package _global_\n# From {source.name} of FluxFlow Training.\n" + _dump(new.body()))
    command = f"python -m fluxflow_exp --config-dir {output.parent.parent} stage={output.stem}"
    return [
        *report.notes,
        f"{output}: {counted(len(new.steps), 'step')}: {', '.join(new.steps)}",
        f"look at the plan: {' '.join([command, 'validate=true', *new.machine])}",
        f"train:            {' '.join([command, *new.machine])}",
    ]


def _read(source: Path) -> Node:
    try:
        old = yaml.safe_load(source.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"there is no file {source}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{source} is not YAML: {error}") from error
    if not isinstance(old, dict):
        raise UserError(f"{source} holds no mapping of sections (model, data, training, output)")
    return old


def _check(old: Node, report: Report) -> None:
    report.check(old, keys.KNOWN[""], "")
    for section in ("model", "data", "training", "optimization", "output"):
        if old.get(section) is not None:
            report.check(old[section], keys.KNOWN[section], section)
    training = old.get("training")
    pipeline = training.get("pipeline") if isinstance(training, dict) else None
    if isinstance(pipeline, list):
        report.refuse(OLD_LIST)
    elif pipeline is not None:
        report.check(pipeline, keys.KNOWN["training.pipeline"], "training.pipeline")
        report.check(pipeline.get("defaults") or {}, keys.STEP, "training.pipeline.defaults")
        for name, node in (pipeline.get("datasets") or {}).items():
            report.check(node, keys.DATASET, f"training.pipeline.datasets.{name}")
        for index, step in enumerate(pipeline.get("steps") or []):
            report.check(step, keys.STEP, f"training.pipeline.steps[{index}]")
        if not pipeline.get("steps"):
            report.refuse("training.pipeline has no steps")


def _translate(
    old: Node, source: Path, name: str, report: Report, *, text_encoder: str | None, model: str
) -> Translated:
    new = Translated()
    sections: dict[str, Node] = {key: old.get(key) or {} for key in ("model", "data", "training", "output")}
    pretrained = _model(sections["model"], new, report, text_encoder=text_encoder, model=model)
    training = sections["training"]
    pipeline = training.get("pipeline") or {}
    _steps(training, pipeline, _optimization(old, source, report), new, report, pretrained=pretrained)
    datasets_of(sections["data"], pipeline, new, report)
    _output(sections["output"], name, new)
    if old.get("model_checkpoint"):
        report.note(
            f"ignored: model_checkpoint: convert the weights (python -m fluxflow_exp.convert weights "
            f"{old['model_checkpoint']} OUT --to ours), then add init_from: OUT to the first step"
        )
    return new


def _steps(training: Node, pipeline: Node, given: Node, new: Translated, report: Report, *, pretrained: bool) -> None:
    shared = {k: v for k, v in training.items() if k in keys.STEP and not k.startswith(("train_", "gan_"))}
    shared.pop("use_lpips", None) if pipeline else None
    olds = pipeline.get("steps") or [{**training, "name": "training", "optimization": given}]
    all_of = [{**shared, **(pipeline.get("defaults") or {}), **step} for step in olds]
    for index, (step, merged) in enumerate(zip(olds, all_of, strict=True)):
        key = _slug(str(step.get("name") or f"step{index + 1}"), report)
        if key in new.steps:
            report.refuse(f"two steps are named {key}")
        made = steps_of(merged, key, report, pretrained_text=pretrained)
        for node in made.values():
            if merged.get("dataset"):
                node["data"] = merged["dataset"]
        new.steps |= made
    sets = list((pipeline.get("datasets") or {}).values())
    workers = {int(each["workers"]) for each in [*all_of, *sets] if each.get("workers") is not None}
    if workers:
        new.machine.append(f"hardware.num_workers={max(workers)}")
    if len(workers) > 1:
        report.note(f"workers: {', '.join(map(str, sorted(workers)))}; hardware.num_workers is one for the whole run")
    halves = {bool(each.get("use_fp16")) for each in all_of}
    if len(halves) > 1:
        report.refuse("use_fp16 differs between steps; hardware.precision holds for all steps of a run")
    if True in halves:
        new.machine.append("hardware.precision=fp16")
        report.note(
            "use_fp16 is hardware.precision=fp16 on the command line (bf16, where the card has it, needs no scaling)"
        )
    if any(step["kind"] == "flow" for step in new.steps.values()):
        report.note(
            "flow steps train rectified flow; FluxFlow's v-prediction is "
            "trainer.objective._target_: fluxflow_exp.losses.v_prediction.VPrediction"
        )
        if not any(step["kind"] == "autoencoder" for step in new.steps.values()):
            flow = next(iter(new.steps))
            report.note(f"{flow} needs a trained autoencoder: give stage.steps.{flow}.init_from=RUN_FOLDER_OR_FILE")
            new.machine.append(f"stage.steps.{flow}.init_from=…")
    if any(step["kind"] == "autoencoder" for step in new.steps.values()):
        report.note(
            "kl_beta: KL is summed over latent channels and averaged over positions here, whatever the image size"
        )


def _optimization(old: Node, source: Path, report: Report) -> Node:
    """The JSON file that a flat configuration names."""
    name = (old.get("optimization") or {}).get("optim_sched_config")
    if not name:
        return {}
    path = source.parent / name
    if not path.is_file():
        report.refuse(f"optimization.optim_sched_config: there is no file {path}")
        return {}
    found: Node = json.loads(path.read_text(encoding="utf-8"))
    return found


def _model(old: Node, new: Translated, report: Report, *, text_encoder: str | None, model: str) -> bool:
    """Model choices; whether the text encoder is a pretrained one."""
    values: Node = {"vae_dim": int(old.get("vae_dim", 128))}
    width = int(old.get("feature_maps_dim", 128))
    if width % 16:
        report.refuse(f"model.feature_maps_dim={width} must be a multiple of 16 (four heads with 2-D rotary positions)")
    values["flow_processor"] = {"width": width, "heads": 4}
    chosen = model
    if old.get("model_type") == "baseline":
        values["activation"] = old.get("baseline_activation", "silu")
        chosen = "fluxflow_silu" if model == "fluxflow" else model
    name = text_encoder or old.get("pretrained_bert_model") or "byte"
    new.overrides.append({"override /model": chosen})
    if name == "byte":
        values["text_dim"] = int(old.get("text_embedding_dim", 1024))
    else:
        folder = Path(name).expanduser() / "config.json"
        if not folder.is_file():
            report.refuse(
                f"the text encoder {name!r}: there is no folder of that name with a config.json; "
                "give --text-encoder FOLDER, or --text-encoder byte"
            )
            return True
        config = json.loads(folder.read_text(encoding="utf-8"))
        values["text_dim"] = config.get("hidden_size") or config.get("dim") or config.get("d_model")
        if int(old.get("text_embedding_dim") or values["text_dim"]) != values["text_dim"]:
            report.note(
                f"model.text_embedding_dim={old['text_embedding_dim']}: tokens keep the encoder's own width, "
                f"{values['text_dim']}; there is no projection"
            )
        values["text_encoder"] = {"name": name}
        new.overrides.append({"override /model/text_encoder": "huggingface"})
    if old.get("use_gradient_checkpointing"):
        new.machine.append("hardware.activation_checkpointing=true")
    new.top["model"] = values
    return name != "byte"


def _output(old: Node, name: str, new: Translated) -> None:
    path = Path(old.get("output_path", "outputs"))
    new.name = path.name if len(path.parts) > 1 else name
    new.top["output_root"] = str(path.parent) if len(path.parts) > 1 else str(path)
    new.top["log_every"] = int(old.get("log_interval", 10))
    if old.get("checkpoint_save_interval"):
        new.top["checkpoint"] = {"every_updates": int(old["checkpoint_save_interval"])}
    samples: Node = {}
    if old.get("no_samples"):
        samples["every_epochs"] = None
    elif old.get("samples_per_checkpoint"):
        samples["samples_per_checkpoint"] = int(old["samples_per_checkpoint"])
    for key in ("sample_captions", "test_image_address"):
        if old.get(key):
            samples[key] = [old[key]] if isinstance(old[key], str) else list(old[key])
    if old.get("sample_sizes"):
        samples["sample_sizes"] = [_size(size) for size in old["sample_sizes"]]
    if old.get("sample_steps"):
        samples["steps"] = int(old["sample_steps"])
    if samples:
        new.top["samples"] = samples


def _size(size: Any) -> Any:
    match = re.fullmatch(r"(\d+)x(\d+)", size) if isinstance(size, str) else None
    return [int(match[1]), int(match[2])] if match else number(size)


def _slug(name: str, report: Report) -> str:
    """A name that can be a key."""
    key = re.sub(r"\W+", "_", name).strip("_") or "step"
    if key != name:
        report.note(f"step {name!r} is named {key}")
    return key


def _dump(value: Node) -> str:
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120)
    return text
