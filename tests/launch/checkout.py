"""A small git checkout of this project in a folder of its own, to edit and commit in."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from rlrr_bench.benchmarks import provenance

GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@example.org")


class Checkout:
    """The packages' files, committed once; `run` types rlrr-bench from it."""

    def __init__(self, folder: Path):
        self.folder = folder
        root = provenance.ROOT
        for name, path in provenance.source_files().items():
            home = folder if "/" in name else folder / "rlrr_bench"
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, home / name)
        shutil.copy(root / "pyproject.toml", folder)
        (folder / "README.md").write_text("A checkout.\n")
        self.git("init", "-q")
        self.commit("all")

    def git(self, *words: str) -> str:
        done = subprocess.run([*GIT, *words], cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def commit(self, message: str) -> str:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)
        return self.git("rev-parse", "HEAD")

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
