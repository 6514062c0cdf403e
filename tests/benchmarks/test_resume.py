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


def test_a_state_of_other_weights_or_code_is_not_gone_on_with(tmp_path: Path):
    saved = Resume(tmp_path / "a.pt", every=0, made_from="run weights pixels code")
    saved.save(1, state())
    assert saved.restore(state()) == 1
    other = Resume(tmp_path / "a.pt", every=0, made_from="run others pixels code")
    assert other.restore(state()) == 0


def test_a_resumed_run_on_other_weights_starts_over(
    small_data, small_config, tmp_path, monkeypatch
):
    recipe = Recipe(epochs=4, warmup_epochs=0, batch_size=8)
    config = replace(small_config, recipe=recipe)
    context = RunContext(small_data, resume=tmp_path, resume_seconds=0)

    def stop(done: EpochDone) -> None:
        if done.epoch == 2:
            raise Stopped

    with pytest.raises(Stopped):
        run.execute(config, context, stop)
    epochs = []
    other = replace(context, weights="random")
    assert run.execute(config, other, lambda done: epochs.append(done.epoch)).done
    assert epochs == [1, 2, 3, 4]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("pos 64")])
def test_what_is_optional_costs_no_result(
    error, small_data, small_config, tmp_path, monkeypatch, capsys
):
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch, "save", full)
    if isinstance(error, OSError):
        monkeypatch.setattr("safetensors.torch.save_file", full)
        monkeypatch.setattr("rlrr_bench.benchmarks.export.write", full)
    folders = {"resume": tmp_path / "resume", "deltas": tmp_path / "deltas"}
    context = RunContext(small_data, resume_seconds=0, deltas_mb=100.0, **folders)
    record = run.execute(small_config, context)
    assert record.done, record.error
    told = capsys.readouterr().out
    assert "the state cannot be saved" in told
    assert ("not kept: [Errno 28]" in told) == isinstance(error, OSError)


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
