"""Copies of this project to edit and commit in, and processes that import from them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from rlrr_bench.benchmarks import provenance

GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@example.org")
SERVE = """
import json, sys
from pathlib import Path
from rlrr_bench.benchmarks import provenance
from rlrr_bench.methods import registry

def origin():
    code = provenance.current()
    return [code.commit, code.dirty]

for line in sys.stdin:
    try:
        answer = eval(line)
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    print(json.dumps(answer, default=str), flush=True)
"""


class Process:
    """A process that imports the packages from a folder and answers questions about its code."""

    def __init__(self, folder: Path):
        environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, question: str) -> Any:
        """The value of an expression, as JSON has it; an exception as text."""
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()


def git(folder: Path, *words: str) -> str:
    done = subprocess.run([*GIT, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(folder: Path) -> str:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "a commit")
    return git(folder, "rev-parse", "HEAD")


def append(path: Path, text: str = "\n# edited\n") -> bytes:
    """Append to a file; returns what it held before."""
    before = path.read_bytes()
    path.write_bytes(before + text.encode())
    return before


def copy_packages(folder: Path) -> Path:
    """The packages' files as an installation has them: all inside of rlrr_bench."""
    for name, path in provenance.source_files().items():
        target = folder / "rlrr_bench" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return folder


def copy_checkout(folder: Path) -> Path:
    """The packages' files as a checkout has them: side by side."""
    for name, path in provenance.source_files().items():
        target = folder / name if "/" in name else folder / "rlrr_bench" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    for name in ("pyproject.toml", ".gitignore"):
        shutil.copy(provenance.ROOT / name, folder)
    (folder / "README.md").write_text("A checkout.\n")
    return folder


class Checkout:
    """The packages' files, committed once; `run` types rlrr-bench from it."""

    def __init__(self, folder: Path):
        self.folder = folder
        copy_checkout(folder)
        git(folder, "init", "-q")
        self.commit()

    def git(self, *words: str) -> str:
        return git(self.folder, *words)

    def commit(self) -> str:
        return commit(self.folder)

    def edit(self, name: str, text: str = "\n# edited\n") -> Path:
        """Append to a file of the checkout."""
        path = self.folder / name
        path.write_text(path.read_text() + text)
        return path

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": str(self.folder)}

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "rlrr_bench", *words]

    def run(self, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            cwd=cwd or self.folder.parent,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def ask(self, code: str, *words: str) -> str:
        """The output of a Python program that imports from here."""
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            cwd=self.folder.parent,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()
