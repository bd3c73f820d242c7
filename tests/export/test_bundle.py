"""Code that is cut out of the package: it does the same, needs nothing of ours, and holds no more than it must."""

import ast
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fluxflow_exp.config.published import PUBLISHED
from fluxflow_exp.export.bundle import attributes, bundle
from fluxflow_exp.export.plain import plain
from fluxflow_exp.losses.v_prediction import VPrediction
from fluxflow_exp.models import compact_vae, fluxflow_vae
from fluxflow_exp.models.text_to_image import OBJECTIVES

BUILDING = "fluxflow_exp.export.remote.building"
PART, SCHEDULER = ("fluxflow_exp.export.remote." + name for name in ("part", "scheduler"))


def run(text: str) -> ModuleType:
    module = ModuleType("bundled")
    exec(compile(text, "bundled", "exec"), vars(module))
    return module


@pytest.mark.parametrize("target", sorted(each for each in PUBLISHED["part"] if not each.endswith("Discriminator")))
def test_code_of_each_part_needs_nothing_of_ours(target: str) -> None:
    text = bundle(PART, given={f"{PART}.PART": target})
    assert not re.search(r"^ *(from|import) +(fluxflow_exp|hydra|omegaconf|pydantic|triton)", text, re.MULTILINE)
    assert "triton" not in text
    assert "is_cuda" not in text
    assert "AutoTokenizer" not in text  # nothing is fetched
    name = target.rpartition(".")[2]
    assert f"built({name}, arguments, state)" in text
    assert text.count(f"\nclass {name}(") == 1


@pytest.mark.parametrize("package", [compact_vae, fluxflow_vae])
def test_it_computes_the_same(package: ModuleType) -> None:
    arguments = {"vae_dim": 8, **({"widths": [8, 16]} if package is compact_vae else {"upscales": 2}), "spade": True}
    original = package.Expander(**arguments, activation="bezier")
    module = run(bundle(PART, given={f"{PART}.PART": f"{package.__name__}.Expander"}))
    copied = module.FluxFlowPart({**arguments, "activation": "bezier"}, original.state_dict()).part
    latents = torch.randn(2, 8, 4, 4)
    assert type(copied).__module__ != package.__name__
    assert torch.equal(copied(latents), original(latents))


def test_methods_that_nothing_calls_are_left_out_and_those_that_others_call_are_not() -> None:
    alone, called = bundle(SCHEDULER), bundle(SCHEDULER, called=["grid", "time_at"])
    assert "def grid" not in alone
    assert "def interpolate" not in called
    grid = run(called).FluxFlowScheduler("v_prediction", 0.5).path.grid(4)
    assert torch.equal(grid, VPrediction(shift=0.5).grid(4))
    assert OBJECTIVES.keys() == run(called).OBJECTIVES.keys()
    assert attributes("x.grid(y.step)") == {"grid", "step"}


MODULES = {
    "one": """
from functools import cache
from fluxflow_exp.two import LIMIT, other
from fluxflow_exp.two import LIMIT as MOST
from fluxflow_exp import two
from fluxflow_exp.config.bounds import PositiveInt, Share

FIRST, SECOND = 1, 2

def size(x: PositiveInt = SECOND, y: Share = 0.5) -> int:
    \"\"\"Local names are not the module's.\"\"\"
    FIRST = [LIMIT for LIMIT in range(x)]
    return len(FIRST) + MOST + two.size(x) + Late().value

class Late(two.Base):
    LIMIT = value = SECOND
    twice = value * 2

    @property
    def size(self):
        return LIMIT

    @size.setter
    def size(self, value=value):
        other = cache = value

    @cache
    def cached(self):
        return LIMIT

def entry(size=size):
    from fluxflow_exp.two import hidden
    return size(3) + other + hidden(2)
""",
    "two": """
LIMIT = 10
other = LIMIT * 10

class Base:
    def unused(self):
        return missing.thing

def size(LIMIT):
    return LIMIT * 1000

def hidden(n: int) -> int:
    return 0 if n == 0 else hidden(n - 1) + LIMIT
""",
    "bad": "import scipy\n\ndef entry():\n    return scipy.x\n",
    "inner": "def entry():\n    import scipy.stats\n",
    "unknown": "def entry():\n    return nowhere\n",
    "loose": "from fluxflow_exp import two\n\ndef entry():\n    return two\n",
}


@pytest.fixture
def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fluxflow_exp.export import modules

    bounds = modules.ROOT / "config" / "bounds.py"
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "bounds.py").write_text(bounds.read_text())
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(modules, "ROOT", tmp_path)
    modules.module.cache_clear()
    yield
    modules.module.cache_clear()


@pytest.mark.usefixtures("_modules")
def test_names_that_clash_are_told_apart_and_local_ones_are_left() -> None:
    text = bundle("fluxflow_exp.one")
    made = run(text)
    # size(3): three in the list, LIMIT 10, two.size(3) = 3000, SECOND 2; other is 100; hidden twice 10.
    assert made.entry() == 3 + 10 + 3000 + 2 + 100 + 20
    assert (made.Late().size, made.Late().cached()) == (10, 10), "of the module, not of the class"
    assert "def one_size(x: int=SECOND, y: float=0.5)" in text
    assert "def two_size(LIMIT)" in text
    given = bundle("fluxflow_exp.one", given={"fluxflow_exp.two.other": "fluxflow_exp.two.LIMIT"})
    assert run(given).entry() == 3 + 10 + 3000 + 2 + 10 + 20


@pytest.mark.usefixtures("_modules")
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("bad", "its code needs scipy"),
        ("inner", "its code needs scipy"),
        ("unknown", "uses nowhere, which stands nowhere at its top"),
        ("loose", "uses two in a way that cannot be brought along"),
        ("gone", "is no module of"),
    ],
)
def test_what_cannot_be_brought_along_is_told(name: str, told: str) -> None:
    with pytest.raises(ImportError, match=told):
        bundle(f"fluxflow_exp.{name}")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("if x.is_cuda and ready:\n    fast()\nelse:\n    slow()", "slow()"),
        ("if x.is_cuda or ready:\n    fast()", "if ready:\n    fast()"),
        ("if not x.is_cuda:\n    return 1\nreturn fast(x)", "return 1"),
        ("return fast(x) if x.is_cuda else slow(x)", "return slow(x)"),
        ("if not (x.is_cuda and y):\n    z()", "z()"),
        ("y: Annotated[int, Ge(1)] = 1", "y: int = 1"),
        ("if x.is_cuda:\n    fast()", "pass"),
        ("return x.is_cpu and True", "return x.is_cpu and True"),
        ("return (not x.is_cuda) and x", "return x"),
    ],
)
def test_what_only_gpus_do_is_folded_away(code: str, expected: str) -> None:
    function, wanted = (ast.parse("def f(x):\n    " + text.replace("\n", "\n    ")) for text in (code, expected))
    assert ast.unparse(plain(function.body[0])) == ast.unparse(wanted)
