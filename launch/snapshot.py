"""The code of a sweep: a copy of the packages as they are at submission, so that editing goes on.

    <results>/code/<key>/{methods,benchmarks,paper_tables,launch,plugins}/, snapshot.json

The key is a hash of the content: sweeps of the same code share a copy. Jobs import from it alone.
"""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("methods", "benchmarks", "paper_tables", "launch")


@dataclass(frozen=True)
class Snapshot:
    """A copy: its folder, the plug-in files in it, and a line on where it comes from."""

    folder: Path
    plugins: list[str]
    origin: str


def take(results: Path, plugins: Collection[str]) -> Snapshot:
    """Copy the code below `results`, or find the copy that is there already."""
    files = {file: ROOT / file for file in _files()}
    files |= {f"plugins/{Path(p).name}": Path(p).resolve() for p in plugins}
    content = {name: path.read_bytes() for name, path in sorted(files.items())}
    digest = hashlib.sha256()
    for name, raw in content.items():
        digest.update(f"{name} {len(raw)}\n".encode() + raw)
    key = digest.hexdigest()[:12]
    home = results.resolve() / "code"
    folder = home / key
    commit, changed = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--", *PACKAGES)
    if not folder.is_dir():
        home.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".copying-", dir=home))
        try:
            for name, raw in content.items():
                (draft / name).parent.mkdir(parents=True, exist_ok=True)
                (draft / name).write_bytes(raw)
            origin = {"git_commit": commit and commit.strip(), "git_dirty": bool(changed)}
            (draft / "snapshot.json").write_text(json.dumps(origin) + "\n")
            os.chmod(draft, 0o755)
            os.rename(draft, folder)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
    size = sum(map(len, content.values())) / 1e6
    count = len((changed or "").splitlines())
    state = f", dirty: {count} files with uncommitted changes" if count else ""
    what = f"commit {commit[:10]}{state}" if commit else "no git checkout"
    own = [str(folder / name) for name in files if name.startswith("plugins/")]
    return Snapshot(folder, own, f"code {key} ({what}; {len(content)} files, {size:.1f} MB)")


def prune(results: Path, used: Collection[str]) -> None:
    """Remove copies that no unfinished job uses, and what runs under them left half-done."""
    for kind in ("code", "resume"):
        for folder in (results / kind).glob("*"):
            if folder.name not in used:
                shutil.rmtree(folder, ignore_errors=True)


def _files() -> list[str]:
    """The packages' files relative to the root: what one can import, whatever git thinks of it."""
    skip = {"__pycache__", "out"}  # out: the built tables
    found = [path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*")]
    return [str(path) for path in found if not skip & set(path.parts) and (ROOT / path).is_file()]


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
