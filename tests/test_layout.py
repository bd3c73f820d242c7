"""The layout of the package: no import circles, few files at the top, short files, functions and constructors."""

import ast
from itertools import chain
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "fluxflow_exp"
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
NAMES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path for path in TREES
}
TYPE_ONLY_CIRCLES = 2


def imports(node: ast.AST, *, types: bool) -> set[str]:
    """Modules of the package that `node` imports, inside functions as well; with `types` under TYPE_CHECKING, too."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not types:
        return set()
    if isinstance(node, ast.ImportFrom):
        found = {f"{node.module}.{each.name}" for each in node.names}
        return {name if name in NAMES else str(node.module) for name in found} & NAMES.keys()
    return set(chain.from_iterable(imports(child, types=types) for child in ast.iter_child_nodes(node)))


def circles(*, types: bool) -> set[frozenset[str]]:
    """Sets of modules that import each other, directly or through others."""
    needs = {name: imports(TREES[path], types=types) - {name} for name, path in NAMES.items()}
    reached: dict[str, set[str]] = {}
    for name in needs:
        reached[name], todo = set(), [name]
        while todo:
            new = needs[todo.pop()] - reached[name]
            reached[name] |= new
            todo += new
    return {
        frozenset(other for other in found if name in reached[other])
        for name, found in reached.items()
        if name in found
    }


def test_no_modules_import_each_other_but_for_types_of_trainers():
    assert circles(types=False) == set()
    for_types = circles(types=True)
    assert len(for_types) <= TYPE_ONLY_CIRCLES, for_types
    assert all(name.startswith("fluxflow_exp.trainers.") for name in chain.from_iterable(for_types)), for_types


def test_few_files_stand_at_the_top_and_none_is_long():
    assert len(list(PACKAGE.glob("*.py"))) <= 21
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in TREES}
    assert {path.name: count for path, count in lines.items() if count > 300} == {}


def test_functions_are_short_and_constructors_take_few_arguments():
    """More than eight arguments are explained in a comment right above or below the signature's beginning."""
    for path, tree in TREES.items():
        text = path.read_text(encoding="utf-8").splitlines()
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                where = f"{path}:{node.lineno} {node.name}"
                assert (node.end_lineno or 0) - node.lineno < 60, where
                count = len(node.args.args + node.args.kwonlyargs) - 1
                if node.name == "__init__" and count > 8:
                    assert text[node.lineno - 2].lstrip().startswith("# "), f"{where} takes {count} arguments"
