"""A fixture for what a process keeps: backbones in a cache."""

from collections.abc import Iterator

import pytest

from rlrr_bench.benchmarks import backbones, weights


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
