"""Conditions on the columns of a record: `score >= 3 and language == "en"`."""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from simpleeval import DEFAULT_OPERATORS, AttributeDoesNotExist, EvalWithCompoundTypes, InvalidExpression

_FUNCTIONS = {"len": len, "int": int, "float": float, "str": str, "abs": abs}
_NO_CONDITION = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Lambda, ast.NamedExpr, ast.Pow)


class ConditionError(ValueError):
    """A condition that is none, or that a record's values do not fit: one sentence."""


class Condition:
    """An expression of Python's over columns: comparisons, `in`, `and`, `or`, `not`, arithmetic, methods of strings.

    `a.b` is the column a.b, or b in the object or struct a. A missing or null column is None: an ordering (`<`, `>=`) or
    `in` of it is false, and `== None` asks for it.
    """

    def __init__(self, expression: str) -> None:
        """Raise ConditionError where it is no such expression."""
        try:
            self._parsed = ast.parse(expression.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError) as error:
            raise ConditionError(f"{expression!r} is no condition ({error})") from None
        nodes = list(ast.walk(self._parsed))
        called: set[ast.AST] = {node.func for node in nodes if isinstance(node, ast.Call)}
        unknown = [name.id for name in called if isinstance(name, ast.Name) and name.id not in _FUNCTIONS]
        if unknown:
            raise ConditionError(f"{expression!r} calls {unknown[0]}; what can be called is {', '.join(_FUNCTIONS)}")
        self._expression = expression
        self.columns: list[str] = list(dict.fromkeys(_columns(self._parsed, called)))
        """The columns that it reads, in order."""
        if not self.columns or any(isinstance(node, _NO_CONDITION) for node in nodes):
            raise ConditionError(f"{expression!r} is no condition; compare columns, for instance score >= 3")

    def __call__(self, columns: Mapping[str, Any]) -> bool:
        """Whether the values fulfil it; raises ConditionError where they cannot be compared so."""
        values = {name: columns.get(name) for name in self.columns}
        try:
            return bool(_Evaluation(values).eval(self._expression, self._parsed))
        except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError, InvalidExpression) as error:
            shown = ", ".join(f"{name}: {str(value)[:40]!r}" for name, value in values.items())
            raise ConditionError(f"{self._expression!r} cannot be evaluated for {shown} ({error})") from None


def _columns(node: ast.AST, called: set[ast.AST]) -> list[str]:
    """The names in an expression, dotted ones whole; what is called is a function or, behind a dot, a method."""
    if node in called:
        return _columns(node.value, called) if isinstance(node, ast.Attribute) else []
    dotted = _dotted(node)
    if dotted is not None:
        return [dotted]
    return [name for child in ast.iter_child_nodes(node) for name in _columns(child, called)]


def _dotted(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := _dotted(node.value)) is not None:
        return f"{before}.{node.attr}"
    return None


def _of_none(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def compared(left: Any, right: Any) -> bool:
        return left is not None and right is not None and compare(left, right)

    return compared


_OPERATORS = DEFAULT_OPERATORS | {
    ast.Lt: _of_none(operator.lt),
    ast.LtE: _of_none(operator.le),
    ast.Gt: _of_none(operator.gt),
    ast.GtE: _of_none(operator.ge),
    ast.In: _of_none(lambda one, all: one in all),
    ast.NotIn: _of_none(lambda one, all: one not in all),
}


class _Evaluation(EvalWithCompoundTypes):
    def __init__(self, columns: dict[str, Any]) -> None:
        super().__init__(operators=_OPERATORS, functions=_FUNCTIONS, names=columns)

    def _eval_attribute(self, node: ast.Attribute) -> Any:
        dotted = _dotted(node)
        if dotted is not None and dotted in self.names:
            return self.names[dotted]
        try:
            return super()._eval_attribute(node)
        except AttributeDoesNotExist:
            raise TypeError(f"{type(self._eval(node.value)).__name__} has no {node.attr}") from None
