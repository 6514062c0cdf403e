"""A run cut short goes on with the same bits; where memory runs out, parts are halved."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlrr_bench.benchmarks import run, trainer
from rlrr_bench.benchmarks.config import Recipe
from rlrr_bench.benchmarks.context import RunContext
from rlrr_bench.benchmarks.outcome import EpochDone, Outcome
from rlrr_bench.benchmarks.resume import Resume, TrainingState


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
    context = RunContext(small_data, resume=tmp_path / "resume", resume_seconds=0)
    whole = run.execute(config, RunContext(small_data))
    assert whole.done, whole.error

    def stop(done: EpochDone) -> None:
        if done.epoch == 2:
            raise Stopped

    with pytest.raises(Stopped):
        run.execute(config, context, stop)
    assert [file.name for file in (tmp_path / "resume").iterdir()] == [f"{config.run_id}.pt"]
    epochs = []
    resumed = run.execute(config, context, lambda done: epochs.append(done.epoch))
    assert epochs == [3, 4]
    assert resumed.curve == whole.curve and resumed.top1_last == whole.top1_last
    run.forget(config, context)
    assert list((tmp_path / "resume").iterdir()) == []


def test_a_damaged_state_is_not_used(small_data, small_config, tmp_path: Path):
    context = RunContext(small_data, resume=tmp_path, resume_seconds=0)
    (tmp_path / f"{small_config.run_id}.pt").write_text("no state")
    assert run.execute(small_config, context).done


def state(micro_batch: int | None = None) -> TrainingState:
    """That of a training of one layer."""
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return TrainingState(model, optimizer, torch.Generator(), Outcome(), micro_batch)


def test_the_state_is_saved_only_every_so_often(tmp_path: Path):
    resume = Resume(tmp_path / "a.pt", every=1000)
    resume.save(1, state())
    assert not (tmp_path / "a.pt").exists()
    resume.saved -= 1001
    resume.save(1, state())
    assert resume.restore(state()) == 1
    assert resume.restore(state(micro_batch=4)) == 0  # other parts draw other dropout masks


def test_out_of_memory_halves_the_micro_batch(small_data, small_config, monkeypatch):
    asked = []
    real = trainer.train

    def hungry(*splits, how, **more):
        asked.append(how.micro_batch)
        if how.micro_batch is None or how.micro_batch > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return real(*splits, how=how, **more)

    monkeypatch.setattr(run.trainer, "train", hungry)
    record = run.execute(small_config, RunContext(small_data))
    assert asked == [None, 4, 2]
    assert record.done and record.micro_batch == 2
    assert record.config.recipe.batch_size == 8
    monkeypatch.undo()
    assert run.execute(small_config, RunContext(small_data)).micro_batch == 8


def test_a_run_that_never_fits_fails(small_data, small_config, monkeypatch):
    def hungry(*splits, **more):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(run.trainer, "train", hungry)
    record = run.execute(small_config, RunContext(small_data))
    assert record.status == "failed" and "out of memory" in record.error
    assert record.reason == "error"
