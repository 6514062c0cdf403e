"""A real cluster for the session, and the command on it as a user types it."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, missing, until
from samples import SMALL, write_task

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = """
cpus: 1
mem: 600M
pack_minutes: 1
poll_seconds: 0.5
warning_seconds: 20
prior: {start: 20, train_1000_images: 0, score_1000_images: 0}
"""


def bring_up(accounting: bool) -> Iterator[Cluster]:
    reason = missing()
    if reason and os.environ.get("CI") == "true":
        pytest.fail(f"CI must run these tests, but: {reason}")
    elif reason:
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="cluster-"))  # short: sockets have a limit of 107 bytes
    try:
        with Cluster(folder, accounting) as cluster:
            yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def plain() -> Iterator[Cluster]:
    """Two nodes without accounting, as the faults need them."""
    yield from bring_up(accounting=False)


@pytest.fixture(scope="session")
def accounted() -> Iterator[Cluster]:
    yield from bring_up(accounting=True)


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name in ("digits", "cells"):
        write_task(folder, "demo", name, SMALL)
    return folder


class Sweep:
    """The command for the demo's Table 2 on tiny data, with folders of its own."""

    def __init__(self, cluster: Cluster, data: Path, folder: Path):
        self.cluster, self.data, self.folder = cluster, data, folder
        self.results = folder / "results"
        self.rows, self.epochs = "linear,lora,bias", 1  # of both tasks: 6 runs, 2 packs
        self.extra: list[str] = []
        self.env = dict(cluster.env)
        self.settings = folder / "site.yaml"
        self.settings.write_text(SETTINGS)
        self.first: dict[str, bytes] = {}  # every record as it was when it appeared
        self.over = threading.Event()
        self.watcher = threading.Thread(target=self._watch, daemon=True)
        self.watcher.start()

    def words(self, *more: str) -> list[str]:
        return [
            *(sys.executable, str(ROOT / "launch" / "sweep.py"), "--table", "2"),
            *("--profile", "demo", "--smoke", "--epochs", str(self.epochs), "--rows", self.rows),
            *("--tasks", "digits,cells", "--data", str(self.data), "--save-deltas", "none"),
            *("--results", str(self.results), "--out", str(self.folder / "out")),
            *("--cluster", "slurm", "--settings", str(self.settings), *self.extra, *more),
        ]

    def start(self, *more: str) -> subprocess.Popen:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            self.words(*more), stdout=pipe, stderr=pipe, text=True, env=self.env, cwd=ROOT
        )

    def __call__(self, *more: str, code: int | None = 0) -> str:
        """Type the command and wait for it; its output."""
        process = self.start(*more)
        try:
            output, errors = process.communicate(timeout=240)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"{process.communicate()[0]}\n{self.logs()}") from None
        assert code is None or process.returncode == code, f"{output}\n{errors}\n{self.logs()}"
        return output + errors

    def submit(self) -> str:
        """Submit without waiting; the first job's id."""
        return re.search(r"^job (\d+):", self("--no-wait"), re.MULTILINE)[1]

    def running(self, seconds: float = 60) -> dict:
        """Wait for a run to be claimed by a job; its claim."""
        found: list[dict] = []

        def claimed() -> bool:
            for path in (self.results / "claims").glob("[!.]*.json"):
                try:
                    found.append(json.loads(path.read_text()))
                except (OSError, ValueError):
                    continue
            return bool(found)

        until(claimed, seconds, f"a running run\n{self.logs()}")
        return found[0]

    def records(self) -> dict[str, dict]:
        files = sorted((self.results / "runs").glob("*.json"))
        return {file.stem: json.loads(file.read_text()) for file in files}

    def complete(self, count: int = 6) -> dict[str, dict]:
        """Every run has exactly one record, which never changed; nothing is left behind."""
        time.sleep(0.3)
        made = self.records()
        assert len(made) == count and {r["status"] for r in made.values()} == {"done"}
        now = {name: (self.results / "runs" / f"{name}.json").read_bytes() for name in made}
        assert self.first == now, "a run that was done was run again"
        leftovers = [p.name for p in (self.results / "runs").iterdir() if p.suffix != ".json"]
        assert leftovers == []
        return made

    def logs(self) -> str:
        found = sorted(self.results.glob("logs/*/*_log.out"))
        return "\n".join(f"--- {f.name}\n{f.read_text()[-1500:]}" for f in found)

    def _watch(self) -> None:
        hurried = time.monotonic()
        while not self.over.wait(0.05):
            if time.monotonic() - hurried > 1:
                self.cluster.hurry()
                hurried = time.monotonic()
            for file in (self.results / "runs").glob("[!.]*.json"):
                if file.stem not in self.first:
                    self.first[file.stem] = file.read_bytes()


@pytest.fixture
def sweep(plain: Cluster, data: Path, tmp_path: Path) -> Iterator[Sweep]:
    """A sweep on the cluster without accounting, which is cleared afterwards."""
    made = Sweep(plain, data, tmp_path)
    yield made
    made.over.set()
    plain.clear()


@pytest.fixture(params=["plain", "accounted"])
def either(request, data: Path, tmp_path: Path) -> Iterator[Sweep]:
    """A sweep on each of the two clusters."""
    cluster = request.getfixturevalue(request.param)
    made = Sweep(cluster, data, tmp_path)
    yield made
    made.over.set()
    cluster.clear()
