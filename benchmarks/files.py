"""Files on disk: written whole or not at all, YAML read with the line of what is wrong."""

import errno
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG
from typing import Any, BinaryIO

import yaml

from ..methods.errors import ConfigError

MOST_YAML = 2**20  # bytes
MOST_NODES = 100_000
ABANDONED = 3600  # seconds after which nobody can still be writing a draft


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a draft to write to; it replaces `path` when the block ends without an exception.

    Readers see the old file or the new one, never a part. Drafts lie beside `path`, and their names
    begin with a dot. After an exception the draft is removed; `remove_drafts` removes those of
    killed processes.
    """
    with _draft_of(path) as draft:
        yield draft
        _settle(draft)
        os.replace(draft, path)


@contextmanager
def drafting(path: Path, text: str) -> Iterator[Path]:
    """Give a finished draft beside `path` with this text, to be linked there; then remove it."""
    with _draft_of(path) as draft:
        draft.write_text(text, encoding="utf-8")
        _settle(draft)
        yield draft


@contextmanager
def _draft_of(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    os.close(handle)
    draft = Path(name)
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _settle(draft: Path) -> None:
    """See that the content is on the disk before anything calls it by its final name."""
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    draft.chmod(0o644)


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a regular file of at most so many bytes.

    A pipe, a device or a file of absurd size is never read: that might take for ever.

    Raises:
        OSError: the file is missing or cannot be read, is no regular file, or is too large.
    """
    with open_regular(path, most) as file:
        return file.read()


def open_regular(path: str | Path, most: int | None = None) -> BinaryIO:
    """Open a regular file to read; see `read_bytes`."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe without a writer
    try:
        refuse_irregular(os.fstat(handle), most)
    except OSError:
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")


def refuse_irregular(stat: os.stat_result, most: int | None = None) -> None:
    """Raise OSError unless this is a regular file of at most so many bytes."""
    if not S_ISREG(stat.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    if most is not None and stat.st_size > most:
        raise OSError(errno.EFBIG, f"{stat.st_size:,} bytes, expected at most {most:,}")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text so that readers see the old file or the new one, never a part."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def remove_drafts(folder: Path) -> None:
    """Remove drafts left by killed writers: those not touched for an hour."""
    for draft in folder.glob(".*-*"):
        with suppress(OSError):  # its writer was faster
            if time.time() - draft.stat().st_mtime > ABANDONED:
                draft.unlink()


class _Strict(yaml.SafeLoader):
    """YAML without its surprises.

    A key twice is an error, not the last of the two. 064 is no number (YAML 1.1: 52), nor is 1:30
    (90); yes, no, on and off are words; a date is text; what is not finite is no number.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int):
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r}: expected a word or a number", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Strict.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0].rpartition(":")[2] in ("null", "merge")]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?((0|[1-9][0-9]*)\.[0-9]*([eE][-+]?[0-9]+)?|\.[0-9]+([eE][-+]?[0-9]+)?"
        r"|(0|[1-9][0-9]*)[eE][-+]?[0-9]+)",
        "-+.0123456789",
    ),
):
    _Strict.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^({_pattern})$"), list(_first)
    )


def _count(content: Any) -> None:
    """Raise ValueError if a document has more nodes than a person writes (aliases of aliases)."""
    left, waiting = MOST_NODES, [content]
    while waiting:
        left -= 1
        if left < 0:
            raise ValueError(f"more than {MOST_NODES:,} values")
        node = waiting.pop()
        if isinstance(node, dict):
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def scalar(text: str) -> Any:
    """A value from the command line as YAML has it: a number, true, null, a list, else text."""
    try:
        return yaml.load(text, _Strict)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping, read strictly; see `_Strict`.

    Raises:
        ConfigError: there is no such file, or it is not YAML (names the line), or not a mapping, or
            it grows beyond all bounds.
    """
    try:
        content = yaml.load(read_bytes(path, MOST_YAML).decode("utf-8"), _Strict)
        _count(content)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: {error.reason}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise ConfigError(f"{path}{line}: not YAML: {problem}") from None
    except RecursionError:
        raise ConfigError(f"{path}: not YAML: nested too deeply") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: found {type(content).__name__}, expected a mapping")
    return content
