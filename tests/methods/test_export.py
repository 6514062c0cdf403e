"""Trained tensors kept by runs, and `rlrr-bench export`."""

import dataclasses
import json
import shutil

import pytest
import safetensors
import timm
import torch
from safetensors.torch import load_file

from rlrr_bench import methods
from rlrr_bench.benchmarks import backbones, export, run
from rlrr_bench.benchmarks.config import RunConfig
from rlrr_bench.benchmarks.context import RunContext
from rlrr_bench.benchmarks.record import RunRecord
from rlrr_bench.benchmarks.store import Results
from rlrr_bench.launch.cli import main

VIT, SWIN = "vit_demo_patch8_32.shapes", "swin_demo_patch4_window4_32.shapes"
CLASSES = 10  # of the demo's task digits
LORA = {"targets": ["q", "v", "out", "fc2"], "rank": 3, "alpha": 6}


def images() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model.eval()(images())


def done(config: RunConfig) -> RunRecord:
    """A record of a run that ended well, with as little in it as one may have."""
    return RunRecord(run_id=config.run_id, status="done", config=config, top1_last=50.0)


@pytest.fixture
def results(tmp_path) -> Results:
    return Results(tmp_path / "results")


@pytest.fixture
def trained(small_config, results):
    """A function: method and options -> config and model of a run whose delta was kept."""

    def make(method: str, options: dict | None = None, tag: str = VIT):
        config = dataclasses.replace(
            small_config, method=method, options=options or {}, backbone=tag
        )
        torch.manual_seed(0)
        backbone = backbones.create(tag, CLASSES)
        model = methods.apply(method, backbone.model, **config.options)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.05 * torch.randn_like(parameter))
        folder = results.folder / "deltas"
        export.save_delta(model, config, backbone.fingerprint, folder, 64.0)
        results.write(done(config))
        return config, model

    return make


def command(run_id: str, results: Results, *words: str) -> int:
    return main(["export", run_id, "--results", str(results.folder), *words])


def test_a_run_keeps_what_it_trained(small_config, small_data, tmp_path):
    config = dataclasses.replace(small_config, method="lora", options={"rank": 2})
    record = run.execute(config, RunContext(small_data, deltas=tmp_path / "deltas"))
    assert record.done and record.error is None
    (path,) = (tmp_path / "deltas").iterdir()
    assert path.name == f"{config.run_id}.safetensors" and path.stat().st_mode & 0o777 == 0o644
    tensors, metadata, read = export.read_delta(path)
    assert read == config and RunConfig.from_dict(json.loads(metadata["config"])) == config
    assert metadata["backbone"] == VIT and metadata["method"] == "lora"
    assert metadata["weights_fingerprint"] == record.weights_fingerprint
    assert json.loads(metadata["options"])["rank"] == 2
    trained = {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
    assert sum(t.numel() for t in trained.values()) == record.params_total
    assert any(t.any() for name, t in tensors.items() if "lora_B" in name)


def test_without_being_asked_or_above_the_limit_nothing_is_kept(small_config, small_data, tmp_path):
    run.execute(small_config, RunContext(small_data))
    run.execute(small_config, RunContext(small_data, deltas=tmp_path / "deltas", deltas_mb=0.0))
    assert not (tmp_path / "deltas").exists()


def test_delta_file(trained, results, tmp_path, capsys):
    config, model = trained("vpt")
    out = tmp_path / "new" / "delta.safetensors"
    assert command(config.run_id, results, "--out", str(out)) == 0
    assert str(out) in capsys.readouterr().out
    other = methods.apply("vpt", backbones.create(VIT, CLASSES).model)
    methods.load_delta(other, load_file(out))
    assert torch.equal(logits(other), logits(model))
    with safetensors.safe_open(out, "pt") as file:
        assert RunConfig.from_dict(json.loads(file.metadata()["config"])) == config


@pytest.mark.parametrize(
    "method, options, tag",
    [("rlrr", {}, VIT), ("rlrr", {}, SWIN), ("lora", LORA, VIT), ("full", {}, SWIN)],
)
def test_merged_is_a_plain_timm_state_dict(trained, results, tmp_path, method, options, tag):
    config, model = trained(method, options, tag)
    out = tmp_path / "merged.safetensors"
    assert command(config.run_id, results, "--merged", "--out", str(out)) == 0
    plain = timm.create_model(tag, num_classes=CLASSES)
    plain.load_state_dict(load_file(out), strict=True)
    torch.testing.assert_close(logits(plain), logits(model), rtol=1e-3, atol=1e-4)
    again = timm.create_model(tag, num_classes=CLASSES, checkpoint_path=str(out))
    assert torch.equal(logits(again), logits(plain))


@pytest.mark.parametrize(
    "options, tag",
    [({}, VIT), ({"targets": ["fc1", "out"], "alpha": 1}, VIT), (LORA, VIT), (LORA, SWIN)],
)
def test_peft_loads_the_adapter_folder(trained, results, tmp_path, options, tag):
    from peft import PeftModel

    config, model = trained("lora", options, tag)
    assert command(config.run_id, results, "--peft", str(tmp_path / "adapter")) == 0
    plain = backbones.create(tag, CLASSES).model
    before = logits(plain)
    theirs = PeftModel.from_pretrained(plain, tmp_path / "adapter")
    assert not torch.allclose(logits(theirs), before, atol=1e-2)
    torch.testing.assert_close(logits(theirs), logits(model), rtol=1e-4, atol=1e-5)
    merged = theirs.merge_and_unload()
    torch.testing.assert_close(logits(merged), logits(model), rtol=1e-3, atol=1e-4)


def test_mistakes_are_one_line(trained, results, tmp_path, small_config, capsys):
    out = ["--out", str(tmp_path / "x.safetensors")]
    adapter, _ = trained("adapter")
    linear, _ = trained("linear")
    lost = dataclasses.replace(small_config, seed=5)
    results.write(done(lost))
    broken = dataclasses.replace(small_config, seed=6)
    results.write(RunRecord.failed(broken, "Diverged: loss is nan"))
    damaged = dataclasses.replace(small_config, seed=7)
    (results.folder / "deltas" / f"{damaged.run_id}.safetensors").write_bytes(b"12345678")
    swapped = dataclasses.replace(small_config, seed=8)
    deltas = results.folder / "deltas"
    shutil.copy(deltas / f"{linear.run_id}.safetensors", deltas / f"{swapped.run_id}.safetensors")
    cases = [
        ([swapped.run_id, *out], f"holds the tensors of the run {linear.run_id}"),
        (["0123456789ab", *out], "unknown run '0123456789ab' in"),
        ([lost.run_id, *out], "its tensors were not kept"),
        ([broken.run_id, *out], "failed: Diverged: loss is nan"),
        ([damaged.run_id, *out], "damaged"),
        ([adapter.run_id, "--merged", *out], "adapter cannot be merged: the adapter is not linear"),
        ([linear.run_id, "--peft", str(tmp_path / "p")], "method linear, expected lora"),
        ([linear.run_id, "--merged", "--peft", str(tmp_path / "p")], "--merged: belongs to --out"),
        ([linear.run_id, "--merged", "--weights", "random", *out], "was trained on weights"),
        ([linear.run_id, "--out", "/proc/none/x.safetensors"], "cannot be written"),
    ]
    for words, message in cases:
        assert command(words[0], results, *words[1:]) == 2, words
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and error.count("\n") == 1, error
    assert not (tmp_path / "x.safetensors").exists() and not (tmp_path / "p").exists()
    with pytest.raises(SystemExit) as stopped:
        main(["export", linear.run_id])
    assert stopped.value.code == 2
