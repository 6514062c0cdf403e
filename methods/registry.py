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
without importing torch; `module` imports it.

`code_files` decides, once, which files a method's numbers depend on: the method's file and the
files of this folder that it imports, without the ground that all methods stand on (the anatomy,
this registry). A record keeps a hash of them, and tables mark the record when the hash has changed.
An edit elsewhere, in the trainer say, marks nothing: the record also names a hash of all code.
"""

import ast
import dataclasses
import hashlib
import importlib
import importlib.util
import linecache
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from .checks import checked
from .errors import InputError, MethodError, nearest

ENTRY_POINTS = "rlrr_bench.methods"
_HERE = Path(__file__).parent
_GROUND = ("anatomy", "registry", "errors", "checks", "lifecycle")
_plugins: dict[str, Path] = {}


def names() -> list[str]:
    """The names of all methods, sorted."""
    return sorted(_files())


def built_in() -> list[str]:
    """The names of the methods in this folder, sorted."""
    return [name for name in names() if file(name).parent == _HERE]


def add_plugin(path: str | Path) -> str:
    """Register the method in a file outside this folder and return its name (the file's name).

    Its source is read now. This process runs and records that text, even if the file changes later.
    Registering the file again reads it again.

    Raises:
        MethodError: there is no such file, it is not a method, or its name is taken.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise MethodError(f"{path}: no such plug-in file")
    _forget()
    try:
        is_method = _defines_attach(path)
    except SyntaxError as error:
        raise MethodError(f"{path}:{error.lineno}: not Python: {error.msg}") from None
    if not is_method:
        raise MethodError(f"{path}: a method file must define attach(anatomy, options)")
    for name, file in _files().items():  # whatever their case, for people and for file systems
        if name.lower() == path.stem.lower() and file != path:
            raise MethodError(f"{path}: there is a method {name!r} already; rename the file")
    _plugins[path.stem] = path
    _files.cache_clear()
    return path.stem


def plugins() -> dict[str, Path]:
    """The files given by `add_plugin`, by the method's name."""
    return dict(_plugins)


def options(name: str, given: Mapping[str, Any] | None = None) -> Any:
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
    return ast.get_docstring(_tree(file(name))) or ""


@cache
def module(name: str) -> types.ModuleType:
    """Import the method's module (and with it torch)."""
    path = file(name)
    if path.parent == _HERE:
        return importlib.import_module(f".{name}", __package__)
    spec = importlib.util.spec_from_file_location(f"methods_plugin_{name}", path)
    assert spec is not None  # of a file that ends in .py
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded  # dataclasses look their module up there
    exec(compile(_source(path), str(path), "exec"), loaded.__dict__)
    lines = _source(path).decode().splitlines(keepends=True)
    linecache.cache[str(path)] = (len(lines), None, lines, str(path))  # for tracebacks
    return loaded


def file(name: str) -> Path:
    """The method's file.

    Raises:
        MethodError: there is no such method.
    """
    files = _files()
    if name not in files:
        own = "; a method of your own needs --plugin FILE.py"
        raise MethodError(f"unknown method {name!r}; {nearest(name, files)}{own}")
    return files[name]


def display(path: Path) -> str:
    """How a message names a method's file: methods/lora.py, or where a plug-in lies."""
    return f"methods/{path.relative_to(_HERE)}" if path.is_relative_to(_HERE) else str(path)


def code_files(name: str) -> list[Path]:
    """The files that the method's numbers depend on, its own first; see the top of this file."""
    files = [file(name)]
    for path in files:  # the list grows during the loop
        files += [other for other in _imported(path) if other not in files]
    return files


@cache
def code_hash(name: str) -> str:
    """12 hex digits over the names and the content of `code_files`."""
    content = hashlib.sha256()
    for path in code_files(name):
        raw = _source(path)
        content.update(f"{path.name} {len(raw)}\n".encode() + raw)
    return content.hexdigest()[:12]


def _imported(path: Path) -> Iterator[Path]:
    """The files of this folder, or beside a plug-in, that a method's file imports; no ground."""
    package = __package__
    if path.is_relative_to(_HERE):
        package = ".".join([__package__, *path.parent.relative_to(_HERE).parts])
    for node in ast.walk(_tree(path)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            home = node.module or ""
            if node.level:
                home = importlib.util.resolve_name("." * node.level + home, package)
            names = [home, *(f"{home}.{alias.name}" for alias in node.names)]
        for name in names:
            folder, parts = path.parent, name.split(".")
            if name.startswith(f"{__package__}."):
                folder, parts = _HERE, name.removeprefix(f"{__package__}.").split(".")
            elif path.is_relative_to(_HERE):
                continue
            other = folder.joinpath(*parts).with_suffix(".py")
            if not (folder == _HERE and parts[0] in _GROUND) and other.is_file():
                yield other


def source(name: str) -> bytes:
    """The method's file as this process knows it."""
    return _source(file(name))


@cache
def _source(path: Path) -> bytes:
    return path.read_bytes()


def _forget() -> None:
    """Drop what was read, so that every file is read again when it is next needed."""
    for function in (_source, _tree, _files, _options_class, module, code_hash):
        function.cache_clear()


@cache
def _files() -> dict[str, Path]:
    files = {p.stem: p for p in _HERE.glob("[!_]*.py") if _defines_attach(p)}
    for entry in entry_points(group=ENTRY_POINTS):
        spec = importlib.util.find_spec(entry.module)
        if spec and spec.origin:
            files.setdefault(entry.name, Path(spec.origin))
    return files | _plugins


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(_source(path), str(path))


def _defines_attach(path: Path) -> bool:
    top = _tree(path).body
    return any(isinstance(node, ast.FunctionDef) and node.name == "attach" for node in top)


@cache
def _options_class(name: str) -> type:
    """The file's Options class, built from its source alone."""
    path = file(name)
    for node in _tree(path).body:
        if isinstance(node, ast.ClassDef) and node.name == "Options":
            space: dict[str, Any] = {"dataclass": dataclasses.dataclass}
            space |= {"Literal": typing.Literal, "__name__": __name__}
            try:
                exec(compile(ast.Module([node], []), str(path), "exec"), space)
            except NameError:  # it uses more of its module than a dataclass needs
                return module(name).Options
            return space["Options"]
    return dataclasses.make_dataclass("Options", [], frozen=True)
