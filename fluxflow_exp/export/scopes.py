"""Which names of a piece of code are the module's, and which its functions' own (Python reference, section 4.2)."""

import ast
from collections.abc import Callable
from typing import Any

Rename = Callable[[ast.Name | ast.Attribute, frozenset[str]], ast.expr]
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class Globals(ast.NodeTransformer):
    """Calls `rename` with each reference to a name of the module, and the names that are local there.

    A reference is a name that is read, or an attribute of such a name: `module.attribute` comes whole.
    """

    def __init__(self, rename: Rename) -> None:
        self.rename = rename
        self.local = self.in_class = frozenset[str]()

    def visit_Name(self, node: ast.Name) -> ast.expr:
        known = isinstance(node.ctx, ast.Load) and node.id not in self.local | self.in_class
        return self.rename(node, self.local) if known else node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if isinstance(node.value, ast.Name) and node.value.id not in self.local | self.in_class:
            return self.rename(node, self.local)
        self.generic_visit(node)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        for field in ("decorator_list", "bases", "keywords"):
            self._visit_field(node, field)
        outside, self.in_class = self.in_class, frozenset(_of_class(node))
        self._inside(node, set(), ("body",))
        self.in_class = outside
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """A class's names are local to what is run with the class, not to the insides of its methods."""
        of_class, self.in_class = self.in_class, frozenset[str]()
        outside, self.local = self.local, self.local | of_class
        for field in ("decorator_list", "returns"):
            self._visit_field(node, field)
        arguments = node.args
        for each in _arguments(arguments):
            self._visit_field(each, "annotation")
        for field in ("defaults", "kw_defaults"):
            self._visit_field(arguments, field)
        self.local = outside
        self._inside(node, {each.arg for each in _arguments(arguments)} | _bound_by(node.body), ("body",))
        self.in_class = of_class
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        self._inside(node, {each.arg for each in _arguments(node.args)}, ("body",))
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, _COMPREHENSIONS):
            self._inside(node, _stored(node), node._fields)
            return node
        return super().generic_visit(node)

    def _inside(self, node: ast.AST, names: set[str], fields: tuple[str, ...]) -> None:
        outside, self.local = self.local, self.local | names
        for field in fields:
            self._visit_field(node, field)
        self.local = outside

    def _visit_field(self, node: ast.AST, field: str) -> None:
        value: Any = getattr(node, field)
        if isinstance(value, list):
            setattr(node, field, [self.visit(each) if isinstance(each, ast.AST) else each for each in value])
        elif isinstance(value, ast.AST):
            setattr(node, field, self.visit(value))


def _arguments(arguments: ast.arguments) -> list[ast.arg]:
    further = [each for each in (arguments.vararg, arguments.kwarg) if each]
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *further]


def _bound_by(statements: list[ast.stmt]) -> set[str]:
    """Names that statements bind; those that functions and comprehensions inside them bind count, too."""
    found = set().union(*map(_stored, statements))
    for each in (each for statement in statements for each in ast.walk(statement)):
        if isinstance(each, ast.FunctionDef | ast.ClassDef):
            found.add(each.name)
        elif isinstance(each, ast.alias):
            found.add((each.asname or each.name).split(".")[0])
        elif isinstance(each, ast.ExceptHandler) and each.name:
            found.add(each.name)
    return found


def _of_class(node: ast.ClassDef) -> set[str]:
    """Names that a class binds itself."""
    methods = [each for each in node.body if isinstance(each, ast.FunctionDef | ast.ClassDef)]
    return {each.name for each in methods}.union(*(_stored(each) for each in node.body if each not in methods))


def _stored(node: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
