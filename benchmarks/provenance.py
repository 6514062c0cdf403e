"""Which code a process runs: a hash of its sources, the commit, and whether a commit holds them.

It depends on where the code is:

checkout   git says. Changed or untracked files inside the packages count as uncommitted; a README,
           a test or a result does not.
snapshot   A sweep's copy of the code (launch/slurm/snapshot.py) says which commit it is a copy of.
wheel      An installation counts as released if its files still have the hashes that pip noted.

A plug-in also counts as uncommitted unless a commit of its repository holds it. A process reads all
of this once, when it starts, because the files may be edited while it works.
"""

import base64
import functools
import hashlib
import importlib.util
import json
import marshal
import os
import subprocess
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

from ..methods import registry
from ..methods.errors import InputError

PACKAGES = ("methods", "benchmarks", "paper_tables", "launch", "rlrr_bench")
SNAPSHOT = "snapshot.json"
ROOT = Path(__file__).resolve().parents[1]  # a checkout, or the installed package itself


class CodeChanged(InputError):
    """The sources were edited while a process was still importing them."""


@dataclass(frozen=True)
class Code:
    """The code of a process.

    Attributes:
        commit: of the checkout; None: unknown.
        dirty: whether any part of the code is in no commit; None: unknown.
        version: of the installed project; None in a checkout that is not installed.
        digest: 12 hex digits over the packages' files, names and content.
        plugins: the hash of every plug-in file by the method's name.
    """

    commit: str | None
    dirty: bool | None
    version: str | None
    digest: str
    plugins: dict[str, str] = field(default_factory=dict)

    def describe(self) -> str:
        """In a few words, for people."""
        if self.commit is None:
            return f"version {self.version}" if self.version else "no git checkout"
        return f"commit {self.commit[:10]}" + ", uncommitted changes" * bool(self.dirty)

    def to_dict(self) -> dict[str, Any]:
        """As a record has it."""
        return {
            "git_commit": self.commit,
            "git_dirty": self.dirty,
            "version": self.version,
            "code": self.digest,
            "plugins": dict(self.plugins),
        }


@functools.cache
def at_start() -> Code:
    """The code of this process. A worker calls this before it imports what its runs need."""
    return current()


def confirm() -> None:
    """Check that what was imported is what `at_start` has hashed.

    Python takes a compiled file whose source has its time (in seconds) and size for up to date, so
    these are compared with the sources too.

    Raises:
        CodeChanged: a source or a plug-in was edited, or a compiled file is not its source's.
    """
    plugins = {name: registry.code_hash(name) for name in registry.plugins()}
    if digest_of(source_files()) != at_start().digest or plugins != at_start().plugins:
        raise CodeChanged(f"{ROOT}: the code was edited while a process started; try again")
    stale = [path for path in source_files().values() if path.suffix == ".py" and _is_stale(path)]
    for path in stale:
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)
    if stale:
        raise CodeChanged(f"{stale[0]}: its compiled file was of other code; removed: try again")


def _is_stale(source: Path) -> bool:
    """Whether Python's compiled file of a source would be used, and is not of this source."""
    try:
        raw, stat = Path(importlib.util.cache_from_source(str(source))).read_bytes(), source.stat()
        flags, time, size = (int.from_bytes(raw[i : i + 4], "little") for i in (4, 8, 12))
        if flags or (time, size) != (int(stat.st_mtime) & 0xFFFFFFFF, stat.st_size & 0xFFFFFFFF):
            return False  # Python compares hashes, or compiles anew
        return marshal.loads(raw[16:]) != compile(source.read_bytes(), str(source), "exec")
    except (OSError, ValueError, EOFError, TypeError, NotImplementedError):
        return False


def current() -> Code:
    """The code as it is on disk now, with the plug-ins as they were registered."""
    plugins = registry.plugins()
    commit, dirty = _origin(plugins.values())
    hashes = {name: registry.code_hash(name) for name in plugins}
    return Code(commit, dirty, _version(), digest_of(source_files()), hashes)


def source_files(root: Path = ROOT) -> dict[str, Path]:
    """The packages' files, code and data, by their path in rlrr_bench."""
    homes = {name: root / name for name in PACKAGES if name != "rlrr_bench"}
    files = {
        f"{name}/{path.relative_to(home).as_posix()}": path
        for name, home in homes.items()
        for path in home.rglob("*")
        if path.is_file() and not any(map(_is_skipped, path.relative_to(home).parts))
    }
    face = root / "rlrr_bench" if (root / "rlrr_bench").is_dir() else root
    files |= {path.name: path for path in face.glob("*.py") if path.is_file()}
    return dict(sorted(files.items()))


def _is_skipped(name: str) -> bool:
    """Compiled files, built tables, and what editors leave for themselves."""
    return name in ("__pycache__", "out") or name.startswith(".") or name.endswith("~")


def digest_of(files: dict[str, Path]) -> str:
    """12 hex digits over the files' names and content."""
    content = hashlib.sha256()
    for name, path in files.items():
        raw = path.read_bytes()
        content.update(f"{name} {len(raw)}\n".encode() + raw)
    return content.hexdigest()[:12]


def _origin(plugins: Collection[Path]) -> tuple[str | None, bool | None]:
    """The commit, and whether anything is uncommitted."""
    note = ROOT.parent / SNAPSHOT  # a snapshot holds the packages as an installation does
    commit, dirty = None, None
    if (ROOT / "pyproject.toml").is_file():
        commit = _git(ROOT, "rev-parse", "HEAD")
        if commit is not None:
            commit, dirty = _checkout(commit)
    elif note.is_file():
        told = json.loads(note.read_text(encoding="utf-8"))
        return told["git_commit"], told["git_dirty"]
    elif _is_as_released():
        dirty = False
    return commit and commit.strip(), True if any(map(_is_loose, plugins)) else dirty


def _checkout(commit: str) -> tuple[str | None, bool | None]:
    """The commit, if it holds any of the sources, and whether it does not hold all as they are."""
    names = [name for name in PACKAGES if (ROOT / name).is_dir()]
    changed = uncommitted(ROOT, names)
    told = _git(ROOT, "ls-tree", "-r", "--name-only", "-z", "HEAD", "--", *names)
    marked = _git(ROOT, "ls-files", "-v", "--", *names)  # lower case: git was told not to look
    if changed is None or told is None or marked is None:
        return commit, None
    held = set(told.split("\0"))
    loose = [p for p in source_files().values() if p.relative_to(ROOT).as_posix() not in held]
    if len(loose) == len(source_files()):
        return None, None  # a copy inside somebody else's repository
    hidden = any(line[:1].islower() or line[:1] == "S" for line in marked.splitlines())
    moved = _git(ROOT, "rev-parse", "HEAD") != commit
    return commit, bool(changed or loose or hidden or moved)


def uncommitted(folder: Path, names: Iterable[str]) -> list[str] | None:
    """Files below `folder` that are changed or untracked, as git lists them; None: git failed."""
    told = _git(folder, "status", "--porcelain", "--untracked-files=all", "--", *names)
    return None if told is None else told.splitlines()


def _is_loose(plugin: Path) -> bool:
    """Whether no commit holds this plug-in as it is on disk."""
    tracked = _git(plugin.parent, "ls-files", "--error-unmatch", "--", plugin.name)
    return tracked is None or bool(uncommitted(plugin.parent, [plugin.name]))


def _is_as_released() -> bool:
    """Whether the installed files are those that the wheel brought."""
    try:
        recorded = distribution("rlrr-bench").files or ()
    except PackageNotFoundError:
        return False
    known = {
        Path(str(entry.locate())).resolve(): entry.hash.value for entry in recorded if entry.hash
    }
    for path in source_files().values():
        raw = hashlib.sha256(path.read_bytes()).digest()
        if known.get(path) != base64.urlsafe_b64encode(raw).rstrip(b"=").decode():
            return False
    return True


@functools.cache
def _version() -> str | None:
    try:
        return version("rlrr-bench")
    except PackageNotFoundError:
        return None


def _git(folder: Path, *words: str) -> str | None:
    """git's output; None if it fails, as outside of a checkout or on a machine without git."""
    elsewhere = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR")
    env = {key: value for key, value in os.environ.items() if key not in elsewhere}
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, env=env)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
