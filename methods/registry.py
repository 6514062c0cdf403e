"""Finds the methods. A method is a Python file that defines `attach`; its name is the file's name.

Three places are searched: this folder, the entry-point group `rlrr_bench.methods` of installed
packages, and files given by `add_plugin`. Adding a method is adding a file: there is no list.

A method file defines

    attach(anatomy, options)        put the method's modules into an (already frozen) model
    count(anatomy, options) -> int  its trainable parameters by the paper's formula, head excluded
    class Options                   optional: a frozen dataclass of options with defaults
    CANNOT_MERGE = "..."            optional: why no plain timm model equals the method, so that
                                    `methods.merge` refuses; on a module's class if it depends

Names, options and docstrings are read from the file's source, so that a login node can plan a grid
without importing torch; `load` imports the module itself.
"""

import ast
import dataclasses
import difflib
import importlib.util
import sys
import types
import typing
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

ENTRY_POINTS = "rlrr_bench.methods"
_HERE = Path(__file__).parent
_plugins: dict[str, Path] = {}


class InputError(ValueError):
    """Bad input, in one line that says where, what was found and what was expected; exit code 2."""


class MethodError(InputError):
    """An unknown method or option, or a model that a method cannot be attached to."""


def nearest(word: str, known: typing.Iterable[str]) -> str:
    """The end of an error message: the nearest valid names, or the first fifteen of them."""
    known = sorted(known, key=lambda name: (not name.startswith(word), name))
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    more = f" and {len(known) - 15} more" if len(known) > 15 else ""
    return f"known: {', '.join(known[:15])}{more}"


def names() -> list[str]:
    """The names of all methods, sorted."""
    return sorted(_files())


def add_plugin(path: str | Path) -> str:
    """Register the method in a file outside this folder and return its name (the file's name)."""
    path = Path(path).resolve()
    if not path.is_file():
        raise MethodError(f"{path}: no such plug-in file")
    try:
        is_method = _defines_attach(path)
    except SyntaxError as error:
        raise MethodError(f"{path}:{error.lineno}: not Python: {error.msg}") from None
    if not is_method:
        raise MethodError(f"{path}: a method file must define attach(anatomy, options)")
    if _files().get(path.stem, path) != path:
        raise MethodError(f"{path}: there is a method {path.stem!r} already; rename the file")
    _plugins[path.stem] = path
    _files.cache_clear()
    return path.stem


def options(name: str, given: typing.Mapping[str, Any] | None = None):
    """The method's options as a frozen dataclass: defaults overridden by `given`, types checked.

    Raises:
        MethodError: unknown method or option, or a value of the wrong type or outside its choices.
    """
    cls = _options_class(name)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    types_of = typing.get_type_hints(cls)
    values = {}
    for key, value in (given or {}).items():
        if key not in fields:
            known = nearest(key, fields) if fields else "it has none"
            raise MethodError(f"method {name}: unknown option {key!r}; {known}")
        try:
            values[key] = checked(f"option {key}", value, types_of[key])
        except InputError as error:
            raise MethodError(f"method {name}: {error}") from None
    try:
        return cls(**values)
    except ValueError as error:  # a condition between options, from the class's __post_init__
        raise MethodError(f"method {name}: {error}") from None


def describe(name: str) -> str:
    """The method's docstring: citation, equation, shapes, parameter formula."""
    return ast.get_docstring(_tree(_file(name))) or ""


@cache
def load(name: str) -> types.ModuleType:
    """Import the method's module (and with it torch)."""
    path = _file(name)
    if path.parent == _HERE:
        return importlib.import_module(f"methods.{name}")
    spec = importlib.util.spec_from_file_location(f"methods_plugin_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


@cache
def _files() -> dict[str, Path]:
    found = {p.stem: p for p in _HERE.glob("[!_]*.py") if _defines_attach(p)}
    for entry in entry_points(group=ENTRY_POINTS):
        spec = importlib.util.find_spec(entry.module)
        if spec and spec.origin:
            found.setdefault(entry.name, Path(spec.origin))
    return found | _plugins


def _file(name: str) -> Path:
    files = _files()
    if name not in files:
        raise MethodError(f"unknown method {name!r}; {nearest(name, files)}")
    return files[name]


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _defines_attach(path: Path) -> bool:
    top = _tree(path).body
    return any(isinstance(node, ast.FunctionDef) and node.name == "attach" for node in top)


@cache
def _options_class(name: str) -> type:
    """The file's Options class, built from its source alone."""
    path = _file(name)
    for node in _tree(path).body:
        if isinstance(node, ast.ClassDef) and node.name == "Options":
            space = {"dataclass": dataclasses.dataclass, "Literal": typing.Literal}
            space["__name__"] = __name__
            try:
                exec(compile(ast.Module([node], []), str(path), "exec"), space)
            except NameError:  # it uses more of its module than a dataclass needs
                return load(name).Options
            return space["Options"]
    return dataclasses.make_dataclass("Options", [], frozen=True)


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
        try:
            number = kind(value)
            if not isinstance(value, float) or number == value:  # 2.5 is no int
                return number
        except (TypeError, ValueError):
            pass
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    expected = "list" if origin is tuple else kind.__name__
    raise InputError(f"{where}: found {value!r}, expected {expected}")
