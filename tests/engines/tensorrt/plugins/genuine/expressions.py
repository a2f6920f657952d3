"""Stand-ins for the three types of TensorRT that Python cannot make: expressions of sizes.

TensorRT's builder makes them, so without one nothing genuine can be had. Everything else that a
plugin meets is TensorRT's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import add, eq, floordiv, lt, mul, sub
from typing import Any

_OPERATIONS: Mapping[str, Callable[[int, int], int]] = {
    "SUM": add,
    "PROD": mul,
    "MAX": max,
    "MIN": min,
    "SUB": sub,
    "EQUAL": eq,
    "LESS": lt,
    "FLOOR_DIV": floordiv,
    "CEIL_DIV": lambda one, other: -(-one // other),
}


class Expression:
    """An integer: a constant, or one that follows from sizes that are named."""

    def __init__(self, value: int | None, of: Callable[[Mapping[str, int]], int]) -> None:
        self._value, self._of = value, of

    @classmethod
    def constant(cls, value: int) -> Expression:
        """That number."""
        return cls(value, lambda sizes: value)

    @classmethod
    def named(cls, name: str) -> Expression:
        """A size that is known when the plan runs."""
        return cls(None, lambda sizes: sizes[name])

    def evaluated(self, sizes: Mapping[str, int]) -> int:
        """For sizes of those names."""
        return self._of(sizes)

    # As TensorRT has it.
    def is_constant(self) -> bool:
        return self._value is not None

    def get_constant_value(self) -> int:
        assert self._value is not None
        return self._value


class Expressions(list[Expression | None]):
    """A shape."""

    def __init__(self, given: int | Iterable[Expression]) -> None:
        super().__init__([None] * given if isinstance(given, int) else given)


class Builder:
    """Makes expressions of others."""

    def constant(self, value: int) -> Expression:
        return Expression.constant(value)

    def operation(self, operation: Any, one: Expression, other: Expression) -> Expression:
        apply = _OPERATIONS[operation.name]
        if one.is_constant() and other.is_constant():
            return Expression.constant(apply(one.get_constant_value(), other.get_constant_value()))
        return Expression(None, lambda sizes: apply(one.evaluated(sizes), other.evaluated(sizes)))


class Argument:
    """A number for a kernel."""

    def __init__(self, given: Any) -> None:
        self.expression: Expression = given._expr


def replace_in(trt: Any) -> None:
    """Make `tensorrt` and its plugin module take these for its own."""
    from tensorrt_bindings.plugin import _tensor

    trt.IDimensionExpr, trt.DimsExprs = Expression, Expressions
    _tensor.SymExprImpl = Argument
