"""A cache of backbones that is empty, a full record."""

from collections.abc import Iterator

import pytest

from rlrr_bench.benchmarks import backbones, weights
from rlrr_bench.benchmarks.config import RunConfig
from rlrr_bench.benchmarks.record import RunRecord


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
def done(small_config: RunConfig) -> RunRecord:
    """A record with something in every field that a run may fill."""
    return RunRecord(
        run_id=small_config.run_id,
        status="done",
        config=small_config,
        top1_last=62.5,
        top1_best_test=70.0,
        curve=({"epoch": 1, "lr": 1e-3, "loss": 2.25}, {"epoch": 2, "lr": 0.0, "loss": 0.1 + 0.2}),
        params_peft=0,
        seconds_total=12.25,
        data_fingerprint="0123+4567",
        weights_fingerprint="89ab" * 16,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        fast_paths=("frozen features",),
        git_commit="cdef" * 10,
        git_dirty=False,
        version="0.2.0",
        code="0123456789ab",
        method_code="ba9876543210",
        plugins={"norms": "00112233aabb"},
        log="logs/worker-1.out",
    )
