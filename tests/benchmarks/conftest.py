"""Fixtures for what a process keeps: backbones in a cache, plug-ins in the registry."""

from collections.abc import Iterator

import pytest

from rlrr_bench.benchmarks import backbones, weights
from rlrr_bench.methods import registry


@pytest.fixture
def fresh_cache() -> Iterator[None]:
    """No backbone is known from before, and none is left for other tests."""
    backbones._pretrained.cache_clear()
    yield
    backbones._pretrained.cache_clear()


@pytest.fixture
def original(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the small demo ViT stand for a tag of the original checkpoint."""
    monkeypatch.setitem(backbones._ORIGINS, "shapes", weights.ORIGINAL)


@pytest.fixture
def no_plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No plug-in is registered before the test, and none of its own after it."""
    monkeypatch.setattr(registry, "_plugins", {})
    registry._forget()
    yield
    registry._plugins.clear()
    registry._forget()
