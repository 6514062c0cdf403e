"""A run cut short goes on with the same bits; where memory runs out, parts are halved."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rlrr_bench.benchmarks import run, trainer
from rlrr_bench.benchmarks.config import Recipe
from rlrr_bench.benchmarks.resume import Resume


class Stopped(BaseException):
    """What a signal does to a run."""


@pytest.mark.parametrize("method", ["full", "rlrr", "lora", "linear"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_resumed_run_ends_with_the_same_bits(
    method, optimizer, small_data, small_config, tmp_path
):
    recipe = Recipe(
        epochs=4, warmup_epochs=1, batch_size=8, optimizer=optimizer, hflip=True, drop_path=0.2
    )
    config = replace(small_config, method=method, recipe=recipe, eval_every=1)
    place = run.Place(small_data, resume=tmp_path / "resume", resume_seconds=0)
    whole = run.execute(config, run.Place(small_data))
    assert whole["status"] == "done", whole["error"]

    def stop(epoch: int, epochs: int, rate: float) -> None:
        if epoch == 2:
            raise Stopped

    with pytest.raises(Stopped):
        run.execute(config, place, stop)
    assert [file.name for file in (tmp_path / "resume").iterdir()] == [f"{config.run_id}.pt"]
    began = []
    resumed = run.execute(config, place, lambda epoch, epochs, rate: began.append(epoch))
    assert began == [3, 4]
    assert resumed["curve"] == whole["curve"] and resumed["top1_last"] == whole["top1_last"]
    run.forget(config, place)
    assert list((tmp_path / "resume").iterdir()) == []


def test_a_damaged_state_is_not_used(small_data, small_config, tmp_path: Path):
    place = run.Place(small_data, resume=tmp_path, resume_seconds=0)
    (tmp_path / f"{small_config.run_id}.pt").write_text("no state")
    assert run.execute(small_config, place)["status"] == "done"


def test_the_state_is_saved_only_every_so_often(tmp_path: Path):
    state = Resume(tmp_path / "a.pt", every=1000)
    state.save(1, None, None, None, None, None)
    assert not (tmp_path / "a.pt").exists()


def test_out_of_memory_halves_the_micro_batch(small_data, small_config, monkeypatch):
    asked = []
    real = trainer.train

    def hungry(*words):
        asked.append(words[8])
        if words[8] is None or words[8] > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return real(*words)

    monkeypatch.setattr(run.trainer, "train", hungry)
    record = run.execute(small_config, run.Place(small_data))
    assert asked == [None, 4, 2]
    assert record["status"] == "done" and record["micro_batch"] == 2
    assert record["config"]["recipe"]["batch_size"] == 8
    monkeypatch.undo()
    assert run.execute(small_config, run.Place(small_data))["micro_batch"] == 8


def test_a_run_that_never_fits_fails(small_data, small_config, monkeypatch):
    def hungry(*words):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(run.trainer, "train", hungry)
    record = run.execute(small_config, run.Place(small_data))
    assert record["status"] == "failed" and "out of memory" in record["error"]
