"""Modules of this package as syntax: what each defines at its top, and where the names that it reads come from."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

import fluxflow_exp

ROOT = Path(fluxflow_exp.__file__).parent
PACKAGE = fluxflow_exp.__name__


class Name(NamedTuple):
    """A definition of this package, fluxflow_exp.MODULE.NAME; with `name` "" the module itself."""

    module: str
    name: str


class Foreign(NamedTuple):
    """What another library is imported for: `module`, or `name` of it, by the name `local`."""

    module: str
    name: str
    local: str

    def imported(self) -> str:
        """How an import statement names it."""
        name = self.name or self.module
        return name if name == self.local else f"{name} as {self.local}"


@dataclass
class Module:
    definitions: dict[str, ast.stmt] = field(default_factory=dict)
    imports: dict[str, Name | Foreign] = field(default_factory=dict)


@cache
def module(name: str) -> Module:
    """The module `name` of this package. ImportError: there is none."""
    path = file_of(name)
    if path is None:
        raise ImportError(f"{name} is no module of {PACKAGE}")
    found, tree = Module(), ast.parse(path.read_text(encoding="utf-8"))
    for statement in ast.walk(tree):  # imports within functions, too
        if isinstance(statement, ast.Import | ast.ImportFrom):
            found.imports |= _imports(statement, outer=statement in tree.body)
    for statement in tree.body:
        found.definitions |= {name: _NoImports().visit(each) for name, each in _definitions(statement)}
    return found


def file_of(name: str) -> Path | None:
    """The file of a module; None: it is no module of this package."""
    place = ROOT.joinpath(*name.split(".")[1:])
    if name.split(".")[0] != PACKAGE:
        return None
    paths = (place.with_suffix(".py"), place / "__init__.py")
    return next((path for path in paths if path.is_file()), None)


def find(where: str, name: str) -> Name | Foreign | None:
    """What `name` is in the module `where`; None: nothing that the module defines or imports."""
    known = module(where)
    if name in known.definitions:
        return Name(where, name)
    found = known.imports.get(name)
    if isinstance(found, Name) and found.name:
        return found if file_of(found.module) is None else find(found.module, found.name) or found
    return found


def _imports(statement: ast.Import | ast.ImportFrom, *, outer: bool) -> dict[str, Name | Foreign]:
    """Local name → what it is; of other libraries only at the top: in a function they stay as they are."""
    found: dict[str, Name | Foreign] = {}
    for alias in statement.names:
        local = alias.asname or alias.name
        if isinstance(statement, ast.ImportFrom) and _ours(statement):
            inner = f"{statement.module}.{alias.name}"
            found[local] = Name(inner, "") if file_of(inner) else Name(str(statement.module), alias.name)
        elif outer and isinstance(statement, ast.ImportFrom):
            found[local] = Foreign(str(statement.module), alias.name, local)
        elif outer:
            found[local.split(".")[0]] = Foreign(alias.name, "", local)
    return found


def _ours(statement: ast.ImportFrom) -> bool:
    return str(statement.module).split(".")[0] == PACKAGE


def _definitions(statement: ast.stmt) -> Iterator[tuple[str, ast.stmt]]:
    """Names that a statement at the top gives, each with a statement that gives it alone."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        yield statement.name, statement
    elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        yield statement.target.id, statement
    elif isinstance(statement, ast.Assign):
        for target in statement.targets:
            pairs = [(target, statement.value)]
            if isinstance(target, ast.Tuple) and isinstance(statement.value, ast.Tuple):
                pairs = list(zip(target.elts, statement.value.elts, strict=True))
            for each, value in pairs:
                if isinstance(each, ast.Name):
                    yield each.id, ast.Assign([ast.Name(each.id, ast.Store())], value, lineno=statement.lineno)


class _NoImports(ast.NodeTransformer):
    """Takes imports of this package out of functions: what they name is found as what a module imports is."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.stmt | None:
        return None if _ours(node) else node
