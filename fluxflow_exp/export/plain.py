"""Code made plain: without what GPUs do faster in training, and without what checks arguments of configurations.

Where a model asks a tensor for `is_cuda`, it goes a way of the same result that a GPU trains faster on, by kernels and
gradients of its own. Exported code goes the other way everywhere: torch alone computes it, on any device.
"""

import ast
from typing import Any, cast

import torch

Statements = list[ast.stmt]


def plain(definition: ast.stmt) -> ast.stmt:
    """A top-level definition in plain code; `definition` itself is changed."""
    return cast(ast.stmt, ast.fix_missing_locations(_Plain().visit(definition)))


def without_methods(definition: ast.stmt, wanted: set[str], left_out: set[str]) -> None:
    """Take from a class the methods whose names nothing in `wanted` has, and those of `left_out`.

    Special methods, and those that a torch module calls by itself, stay.
    """
    if isinstance(definition, ast.ClassDef):
        definition.body = [each for each in definition.body if _stays(each, wanted, left_out)] or [ast.Pass()]


def _stays(statement: ast.stmt, wanted: set[str], left_out: set[str]) -> bool:
    if not isinstance(statement, ast.FunctionDef):
        return True
    name = statement.name
    special = (name.startswith("__") and name.endswith("__")) or hasattr(torch.nn.Module, name)
    return name not in left_out and (special or name in wanted)


class _Plain(ast.NodeTransformer):
    """Folds `is_cuda` to False, takes what can no longer be reached away, and Annotated[int, …] for int."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        self.generic_visit(node)
        return ast.Constant(False) if node.attr == "is_cuda" else node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        self.generic_visit(node)
        folds = isinstance(node.op, ast.Not) and isinstance(node.operand, ast.Constant)
        return ast.Constant(not cast(ast.Constant, node.operand).value) if folds else node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        self.generic_visit(node)
        decides = isinstance(node.op, ast.Or)  # a true operand makes an `or` true, a false one an `and` false
        if any(_is(each, decides) for each in node.values):
            return ast.Constant(decides)
        node.values = [each for each in node.values[:-1] if not _is(each, not decides)] + node.values[-1:]
        return node if len(node.values) > 1 else node.values[0]

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        self.generic_visit(node)
        if _is(node.test, True) or _is(node.test, False):
            return node.body if _is(node.test, True) else node.orelse
        return node

    def visit_If(self, node: ast.If) -> ast.stmt | Statements:
        self.generic_visit(node)
        if _is(node.test, True) or _is(node.test, False):
            return node.body if _is(node.test, True) else node.orelse
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.stmt:
        self.generic_visit(node)
        ends = (place for place, each in enumerate(node.body) if isinstance(each, ast.Return | ast.Raise))
        node.body = node.body[: next(ends, len(node.body)) + 1] or [ast.Pass()]
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        self.generic_visit(node)
        annotated = isinstance(node.value, ast.Name) and node.value.id == "Annotated"
        return cast(ast.Tuple, node.slice).elts[0] if annotated else node


def _is(node: Any, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value
