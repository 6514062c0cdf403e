"""Records and tables that several tests read, made once however many processes test."""

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import printed_records
import pytest

Shared = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Shared:
    """shared(name, make): a folder that `make` fills, once for all processes; only read it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def share(name: str, make: Callable[[Path], None]) -> Path:
        folder, made = root / name, root / f"{name}.made"
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                made.touch()
        return folder

    return share


@pytest.fixture(scope="session")
def paper_records(shared) -> Path:
    """A results folder with a record for every run of the paper's tables, with its numbers."""

    def make(folder: Path) -> None:
        for name in printed_records.NAMES:
            printed_records.write(folder, name)

    return shared("paper-records", make)


@pytest.fixture(scope="session")
def compile_latex() -> Callable[[Path], None]:
    """Compile a document, with every warning an error; the folder is written to."""
    if shutil.which("pdflatex") is None:
        assert not os.environ.get("CI"), "pdflatex must be there in CI"
        pytest.skip("pdflatex is not installed")

    def compile_document(path: Path) -> None:
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", path.name]
        for _ in range(2):  # the second run has the labels
            done = subprocess.run(command, cwd=path.parent, capture_output=True, timeout=300)
        log = path.with_suffix(".log").read_text(errors="replace")
        assert done.returncode == 0, log[-2000:]
        lines = log.splitlines()
        assert not [x for x in lines if re.search("warning|overfull|underfull", x, re.I)]

    return compile_document
