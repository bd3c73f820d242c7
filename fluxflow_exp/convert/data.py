"""The data section and the named data sets of FluxFlow Training's YAML."""

from fluxflow_exp.convert.keys import Report
from fluxflow_exp.convert.steps import Node
from fluxflow_exp.convert.translated import Translated

TOKEN_VARIABLE = "WEBDATASET_TOKEN"


def datasets_of(flat: Node, pipeline: Node, new: Translated, report: Report) -> None:
    """One data set, or data=multi where a pipeline names several; their batch sizes go to the steps."""
    named = pipeline.get("datasets") or {}
    look = _look(flat)
    if not named:
        for step_name, step in new.steps.items():
            if step.get("data"):
                report.refuse(f"{step_name}: its dataset is {step['data']!r}; training.pipeline.datasets names none")
        kind, values = _flat(flat, report)
        new.overrides.append({"override /data": kind})
        new.machine += [f"data.{key}=…" for key in ("data_path", "captions_file") if values.get(key, "") is None]
        for key in [key for key, value in values.items() if value is None]:
            report.note(f"data.{key} is not set in the file: give it on the command line")
            del values[key]
        new.top["data"] = {**values, **look}
        return
    default = pipeline.get("default_dataset")
    known = ", ".join(named)
    if default is not None and default not in named:
        report.refuse(f"training.pipeline.default_dataset={default!r}; there are {known}")
    sets: Node = {}
    for name, node in named.items():
        kind, values = _named(name, node, report)
        new.overrides.insert(0, {f"/data@data.datasets.{name}": kind})
        own = {"fixed_prompt_prefix": node["fixed_prompt_prefix"]} if node.get("fixed_prompt_prefix") else {}
        sets[name] = {**values, **look, **own}
    new.overrides.append({"override /data": "multi"})
    new.top["data"] = {"datasets": sets, "default": default}
    for step_name, step in new.steps.items():
        picked = step.get("data") or default
        if picked not in named:
            report.refuse(f"{step_name}: its dataset is {picked!r}; there are {known}")
        elif named[picked].get("batch_size"):
            step["batch_size"] = int(named[picked]["batch_size"])


def _look(flat: Node) -> Node:
    values: Node = {"img_size": int(flat.get("img_size", 1024))}
    for key in ("fixed_prompt_prefix", "reduced_min_sizes"):
        if flat.get(key):
            values[key] = flat[key]
    return values


def _flat(flat: Node, report: Report) -> tuple[str, Node]:
    if flat.get("use_webdataset") or flat.get("use_tt2m"):
        return "webdataset", _shards(flat, "data", report)
    return "image_folder", {"data_path": flat.get("data_path"), "captions_file": flat.get("captions_file")}


def _named(name: str, node: Node, report: Report) -> tuple[str, Node]:
    where = f"training.pipeline.datasets.{name}"
    kind = node.get("type", "local")
    if kind == "webdataset":
        return "webdataset", _shards(node, where, report)
    if kind != "local":
        report.refuse(f"{where}.type={kind!r}; there are local and webdataset")
    for key in ("image_folder", "captions_file"):
        if not node.get(key):
            report.refuse(f"{where}.{key} is not set")
    for key in sorted(node):
        if key.startswith("webdataset_") and node[key] is not None:
            report.refuse(f"{where}.{key} is of type: webdataset, and this data set's type is local")
    return "image_folder", {"data_path": node.get("image_folder"), "captions_file": node.get("captions_file")}


def _shards(node: Node, where: str, report: Report) -> Node:
    url = node.get("webdataset_url")
    if not url:
        report.refuse(f"{where}.webdataset_url is not set")
        return {}
    if str(url).startswith("hf://") and "*" in str(url):
        report.refuse(f"{where}.webdataset_url: name the shards with a brace range, e.g. {{00000..00046}}, not with *")
    values: Node = {
        "urls": url,
        "image_key": node.get("webdataset_image_key", "png"),
        "label_key": node.get("webdataset_label_key", "json"),
        "caption_key": node.get("webdataset_caption_key", "prompt"),
    }
    if node.get("webdataset_size"):
        values["epoch_size"] = int(node["webdataset_size"])
    if node.get("webdataset_token") or node.get("tt2m_token"):
        values["token_env"] = TOKEN_VARIABLE
        report.note(f"{where}.webdataset_token is not written to any file: export {TOKEN_VARIABLE}=… before training")
    return values
