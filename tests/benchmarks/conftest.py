"""Fixtures of the tests of backbones and weights files."""

import pytest
from rlrr_bench.benchmarks import backbones, weights


@pytest.fixture(autouse=True)
def _fresh_cache():
    backbones._pretrained.cache_clear()


@pytest.fixture
def original(monkeypatch):
    """Let the small demo ViT stand for a tag of the original checkpoint."""
    monkeypatch.setitem(backbones._ORIGINS, "shapes", weights.ORIGINAL)
