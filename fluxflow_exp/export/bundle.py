"""One file of the code that a few classes need: their definitions as they stand in this package, and nothing else.

From a module on, whatever a definition reads of this package is gathered, made plain (plain.py), given a name that no
other has, and written after what it needs when it is defined. Methods that nothing gathered calls are left out.
What is exported is thus this package's own code, and cannot differ from what has trained the model.
"""

import ast
import builtins
import copy
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast, get_args

import fluxflow_exp
from fluxflow_exp.config import bounds
from fluxflow_exp.export.modules import Foreign, Name, find, module
from fluxflow_exp.export.plain import plain, without_methods
from fluxflow_exp.export.scopes import Globals

ANNOTATED = Foreign("typing", "Annotated", "Annotated")  # plain code has none
# What a machine that runs exported code has: torch, what torch needs itself (jinja2), and diffusers' libraries.
LIBRARIES = frozenset({"torch", "jinja2", "safetensors", "numpy", "PIL", "diffusers", "transformers", "tokenizers"})

# Methods that Python or torch would call by themselves, and generation does not.
NOT_CALLED = (
    "fluxflow_exp.losses.flow_matching.RectifiedFlow.__call__",
    "fluxflow_exp.losses.v_prediction.VPrediction.__call__",
    "fluxflow_exp.models.text_to_image.TextToImage.forward",
)
# What an exported model has along and need not look for.
ALONG = {"fluxflow_exp.models.huggingface_files.fetch": "fluxflow_exp.export.remote.building.fetch"}


@dataclass
class _Gathered:
    """Definitions in plain code, with what they read, and the attributes that they ask objects for."""

    code: dict[Name, ast.stmt] = field(default_factory=dict)
    reads: dict[Name, set[Name]] = field(default_factory=dict)
    at_once: dict[Name, set[Name]] = field(default_factory=dict)  # those that it reads while it is defined
    libraries: set[str] = field(default_factory=set)
    foreign: dict[str, Foreign] = field(default_factory=dict)
    attributes: set[str] = field(default_factory=set)


def bundle(
    root: str, *, given: dict[str, str] | None = None, called: Iterable[str] = (), libraries: frozenset[str] = LIBRARIES
) -> str:
    """The code of the module `root` of this package, whose classes stay whole, as the text of a module.

    `given`: "MODULE.NAME" → the definition that is put in its place. `called`: names of methods that other code calls.
    ImportError: the code needs another library than Python's own and `libraries`.
    """
    instead = {_name(old): _name(new) for old, new in {**ALONG, **(given or {})}.items()}
    firsts = [name for each in module(root).definitions if (name := Name(root, each)) not in instead]
    gathered, wanted = _Gathered(), set(called)
    while True:  # a method that is called may call others
        gathered = _gather(firsts, instead, wanted)
        if gathered.attributes <= wanted:
            break
        wanted |= gathered.attributes
    missing = gathered.libraries - libraries - sys.stdlib_module_names
    if missing:
        raise ImportError(f"its code needs {', '.join(sorted(missing))}")
    return _written(firsts, gathered, instead)


def _name(text: str) -> Name:
    return Name(*text.rsplit(".", 1))


def attributes(text: str) -> set[str]:
    """What the code `text` asks objects for, and thus may call of them."""
    return {each.attr for each in ast.walk(ast.parse(text)) if isinstance(each, ast.Attribute)}


def _gather(firsts: list[Name], instead: dict[Name, Name], wanted: set[str]) -> _Gathered:
    found, waiting = _Gathered(), list(firsts)
    while waiting:
        name = waiting.pop()
        if name in found.code:
            continue
        if name.name not in module(name.module).definitions:
            raise ImportError(f"{name.module} has no {name.name}")
        code = plain(copy.deepcopy(module(name.module).definitions[name.name]))
        if name not in firsts:
            left_out = {each.rpartition(".")[2] for each in NOT_CALLED if each.startswith(".".join([*name, ""]))}
            without_methods(code, wanted, left_out)
        found.code[name] = code
        found.attributes |= {each.attr for each in ast.walk(code) if isinstance(each, ast.Attribute)}
        targets = {target for target, _ in _references(code, name.module, instead)} - {ANNOTATED}
        found.reads[name] = {target for target in targets if isinstance(target, Name)}
        at_once = {target for target, _ in _references(_head(code), name.module, instead)}
        found.at_once[name] = found.reads[name] & at_once
        waiting += found.reads[name]
        for each in targets - found.reads[name]:
            assert isinstance(each, Foreign)
            if found.foreign.setdefault(each.local, each) != each:
                raise ImportError(f"{each.local} means {each.module} here and {found.foreign[each.local].module} there")
        found.libraries |= _libraries(code) | {each.module.split(".")[0] for each in found.foreign.values()}
    return found


def _libraries(code: ast.stmt) -> set[str]:
    """What is imported within functions of `code`."""
    found = {str(each.module) for each in ast.walk(code) if isinstance(each, ast.ImportFrom)}
    found |= {alias.name for each in ast.walk(code) if isinstance(each, ast.Import) for alias in each.names}
    return {each.split(".")[0] for each in found}


def _head(code: ast.stmt) -> ast.stmt:
    """What Python runs of `code` when it is defined: all but the insides of functions, and annotations."""
    head = copy.deepcopy(code)
    for each in ast.walk(head):
        if isinstance(each, ast.FunctionDef):
            each.body, each.returns = [ast.Pass()], None
        elif isinstance(each, ast.arg):
            each.annotation = None
        elif isinstance(each, ast.AnnAssign):
            each.annotation = ast.Constant(None)
    return head


def _references(code: ast.AST, where: str, instead: dict[Name, Name]) -> list[tuple[Name | Foreign, frozenset[str]]]:
    """What `code`, which stands in the module `where`, refers to, each time with the names that are local there."""
    found = []

    def note(node: ast.Name | ast.Attribute, local: frozenset[str]) -> ast.expr:
        target = _target(node, where, instead)
        if target is not None:
            found.append((target, local))
        return node

    Globals(note).visit(code)
    return found


def _target(node: ast.Name | ast.Attribute, where: str, instead: dict[Name, Name]) -> Name | Foreign | None:
    """What a reference means; None: nothing that is to be brought along. ImportError: it cannot be."""
    name = cast(ast.Name, node.value).id if isinstance(node, ast.Attribute) else node.id
    target = find(where, name)
    if isinstance(target, Name) and not target.name:  # a module, of which an attribute is meant
        attribute = node.attr if isinstance(node, ast.Attribute) else ""
        target = find(target.module, attribute)
        if target is None:
            raise ImportError(f"{where} uses {name} in a way that cannot be brought along")
    if target is None and not hasattr(builtins, name) and name != "__file__":
        raise ImportError(f"{where} uses {name}, which stands nowhere at its top")
    if isinstance(target, Name):
        target = instead.get(target, target)
        return None if target.module == bounds.__name__ else target
    return None if _number(where, name) else target


def _number(where: str, name: str) -> str | None:
    """The plain type of a number whose range config/bounds.py declares; None: it is no such type."""
    target = find(where, name)
    ranged = isinstance(target, Name) and target.module == bounds.__name__
    declared = getattr(bounds, name, None) if ranged or (target and target[0] == "pydantic") else None
    return cast(type, get_args(declared)[0]).__name__ if declared else None


def _written(firsts: list[Name], gathered: _Gathered, instead: dict[Name, Name]) -> str:
    called = _called(gathered, instead)
    for name, code in gathered.code.items():
        gathered.code[name] = _renamed(code, name, called, instead)
    parts = [ast.unparse(gathered.code[name]) for name in _ordered(firsts, gathered)]
    sources = ", ".join(sorted({name.module for name in gathered.code}))
    head = (
        f'"""Code of fluxflow_exp {fluxflow_exp.__version__} (MIT licence) that this model needs, written by it.\n\n'
        f"Ways that only make training on GPUs faster are left out. From {sources}.\n"
        '"""'
    )
    return "\n\n\n".join([head, "from __future__ import annotations\n\n" + _imported(gathered), *parts]) + "\n"


def _imported(gathered: _Gathered) -> str:
    names: dict[str, list[str]] = {}
    lines = []
    for each in gathered.foreign.values():
        if each.name:
            names.setdefault(each.module, []).append(each.imported())
        else:
            lines.append(f"import {each.imported()}")
    lines = sorted(lines) + [f"from {module} import {', '.join(sorted(names[module]))}" for module in sorted(names)]
    return "\n".join(lines) + "\n"


def _called(gathered: _Gathered, instead: dict[Name, Name]) -> dict[Name, str]:
    """A name for each definition: its own, or, where another thing has that, with its module's before it."""
    local: dict[Name, set[str]] = {}
    for name, code in gathered.code.items():
        for target, names in _references(code, name.module, instead):
            if isinstance(target, Name):
                local.setdefault(target, set()).update(names)
    found: dict[Name, str] = {}
    taken = {*gathered.foreign, *dir(builtins)}
    for name in gathered.code:
        alone = sum(each.name == name.name for each in gathered.code) == 1
        free = alone and name.name not in taken | local.get(name, set())
        found[name] = name.name if free else f"{name.module.rpartition('.')[2]}_{name.name}"
    return found


def _renamed(code: ast.stmt, name: Name, called: dict[Name, str], instead: dict[Name, Name]) -> ast.stmt:
    def rename(node: ast.Name | ast.Attribute, local: frozenset[str]) -> ast.expr:
        target = _target(node, name.module, instead)
        number = _number(name.module, node.id) if isinstance(node, ast.Name) else None
        if number:
            return ast.Name(number, ast.Load())
        if not isinstance(target, Name):
            return node
        new = ast.Name(called[target], ast.Load())
        whole = isinstance(node, ast.Name) or _is_module(name.module, cast(ast.Name, node.value).id)
        return new if whole else ast.Attribute(new, cast(ast.Attribute, node).attr, ast.Load())

    code = cast(ast.stmt, Globals(rename).visit(code))
    _entitle(code, called[name])
    return ast.fix_missing_locations(code)


def _is_module(where: str, name: str) -> bool:
    target = find(where, name)
    return isinstance(target, Name) and not target.name


def _entitle(code: ast.stmt, name: str) -> None:
    if isinstance(code, ast.ClassDef | ast.FunctionDef):
        code.name = name
    elif isinstance(code, ast.Assign | ast.AnnAssign):
        target = code.targets[0] if isinstance(code, ast.Assign) else code.target
        if isinstance(target, ast.Name):
            target.id = name


def _ordered(firsts: list[Name], gathered: _Gathered) -> list[Name]:
    """Each definition after those that it reads while it is defined; otherwise helpers after what calls them."""
    order: dict[Name, None] = {}

    def place(name: Name) -> None:
        for each in sorted(gathered.at_once[name] - order.keys()):
            place(each)
        order[name] = None

    waiting = list(firsts)
    while waiting:
        name = waiting.pop(0)
        if name not in order:
            place(name)
            waiting += [each for known in list(order) for each in sorted(gathered.reads[known]) if each not in order]
    return list(order)
