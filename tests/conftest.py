"""What several test folders need: small data sets in the real layout, a small run config."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # float32 and equal bits on a machine with a GPU too
os.environ["OMP_NUM_THREADS"] = "1"  # of the commands that tests type; see below

import torch
from checkout import Process, commit, copy_checkout, git
from samples import SMALL, write_task

from rlrr_bench.benchmarks import provenance
from rlrr_bench.benchmarks.config import Recipe, RunConfig
from rlrr_bench.methods import registry

torch.set_num_threads(1)  # bit-equal results, and test processes side by side


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep one thread: a sweep in this process (--cluster debug) takes all cores, for good."""
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)


@pytest.fixture(autouse=True)
def _new_process() -> None:
    """Let each test read the code it runs anew: plug-ins of the test before are not part of it."""
    provenance.at_start.cache_clear()


@pytest.fixture
def small_data(tmp_path: Path) -> Path:
    """A data folder with two demo tasks of 16 training and 10 test images."""
    for name in ("digits", "cells"):
        write_task(tmp_path / "data", "demo", name, SMALL)
    return tmp_path / "data"


@pytest.fixture
def small_config() -> RunConfig:
    """Two epochs of linear probing of the demo ViT on `small_data`."""
    recipe = Recipe(epochs=2, warmup_epochs=0, batch_size=8)
    return RunConfig(
        "demo", "digits", "vit_demo_patch8_32.shapes", "linear", recipe=recipe, smoke=True
    )


@pytest.fixture
def no_plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No plug-in is registered before the test, and none of its own after it."""
    monkeypatch.setattr(registry, "_plugins", {})
    registry._forget()
    yield
    registry._plugins.clear()
    registry._forget()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git repository with the packages in its only commit."""
    folder = copy_checkout(tmp_path / "checkout")
    git(folder, "init", "-q")
    commit(folder)
    return folder


@pytest.fixture
def start() -> Iterator[Callable[[Path], Process]]:
    """Starts processes, and ends them after the test."""
    processes = []

    def begin(folder: Path) -> Process:
        processes.append(Process(folder))
        return processes[-1]

    yield begin
    for process in processes:
        process.end()


# These wait more than they compute, or take longest: they start first (workers take whole files).
FIRST = ("test_faults.py", "test_ends_of_jobs.py", "test_sweep.py", "test_every_method.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files so that no long one begins when the others have ended."""
    order = {name: position for position, name in enumerate((*FIRST, "test_arrays.py"))}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
