"""The layout of the package: no import circles, few files at the top, short files, functions and constructors."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "fluxflow_exp"
TEXTS = {path: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}


@cache
def trees() -> dict[Path, ast.Module]:
    return {path: ast.parse(text) for path, text in TEXTS.items()}


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Statements at and below `node`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr):
            yield from statements(child)


def circles() -> set[frozenset[str]]:
    """Sets of modules each of which needs all the others; imports within functions and for types count."""
    modules = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): tree for path, tree in trees().items()}
    needs: dict[str, set[str]] = {}
    for module, tree in modules.items():
        found = [each for each in statements(tree) if isinstance(each, ast.ImportFrom)]
        names = {f"{each.module}{end}" for each in found for end in ("", *(f".{name.name}" for name in each.names))}
        needs[module] = names & modules.keys() - {module}
    for through in needs:  # Warshall's closure
        for each in needs.values():
            each |= needs[through] if through in each else set()
    return {frozenset(other for other in all_ if name in needs[other]) for name, all_ in needs.items() if name in all_}


def test_no_modules_import_each_other_not_for_types_either():
    assert circles() == set()


def test_few_files_stand_at_the_top_and_none_is_long():
    assert len(list(PACKAGE.glob("*.py"))) <= 21
    assert [path for path, text in TEXTS.items() if text.count("\n") > 300] == []


def test_functions_are_short_and_constructors_take_few_arguments_or_say_why():
    for path, tree in trees().items():
        lines = TEXTS[path].splitlines()
        for node in statements(tree):
            count = 0
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{path}: {node.name}"
                count = len(node.args.args + node.args.kwonlyargs) - 1 if node.name == "__init__" else 0
            elif isinstance(node, ast.ClassDef) and node.decorator_list:  # a dataclass
                count = sum(isinstance(each, ast.AnnAssign) for each in node.body)
            if count > 8 and path.name != "schema.py":  # whose fields are the keys of a configuration
                first = min(each.lineno for each in [node, *node.decorator_list])
                assert lines[first - 2].lstrip().startswith("# "), f"{path}: {node.name} takes {count} arguments"
