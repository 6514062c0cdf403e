"""Values from YAML and the command line, checked against a type."""

import re
import types
import typing
from typing import Any

from .errors import InputError

NUMBERS = {  # as text: plain ASCII, no leading zeros, no underscores, nothing that is not finite
    int: re.compile(r"[-+]?(0|[1-9][0-9]*)"),
    float: re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?"),
}


def checked(where: str, value: Any, kind: Any) -> Any:
    """`value` as type `kind`: bool, int, float, str, None, Literal, tuple or a union of them.

    Text is accepted for a number (YAML reads 5e-4 as text) and for a tuple (comma-separated).

    Raises:
        InputError: it is of another type or not among the choices; begins with `where`.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        if value in arguments and not isinstance(value, bool):
            return value
        raise InputError(f"{where}: found {value!r}, expected one of {', '.join(arguments)}")
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return checked(where, value, next(a for a in arguments if a is not type(None)))
    if origin is tuple:
        items = value.split(",") if isinstance(value, str) else value
        if isinstance(items, list | tuple):
            return tuple(checked(where, item, arguments[0]) for item in items)
    elif kind in (int, float) and not isinstance(value, bool):
        written = not isinstance(value, str) or NUMBERS[kind].fullmatch(value)
        try:
            number = kind(value) if written and len(str(value)) < 400 else None
            if number is not None and (not isinstance(value, float) or number == value):
                return number  # 2.5 is no int
        except (TypeError, ValueError, OverflowError):
            pass
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    expected = "list" if origin is tuple else kind.__name__
    raise InputError(f"{where}: found {value!r}, expected {expected}")
