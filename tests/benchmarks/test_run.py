"""One run and its record."""

import dataclasses
import json
import math
import re

import pytest
import timm
import torch
from rlrr_bench.benchmarks import backbones, run
from rlrr_bench.benchmarks.config import Recipe, RunConfig
from rlrr_bench.benchmarks.record import Results, failed
from rlrr_bench.benchmarks.run import Place
from samples import write_task

from rlrr_bench import methods

CPU = torch.device("cpu")
# What depends on the clock, the machine or the checkout, not on the run.
VOLATILE = ("seconds", "images_per_second", "peak_memory", "started", "ended", "git")


def lasting(record: dict) -> dict:
    return {k: v for k, v in record.items() if not k.startswith(VOLATILE)}


def test_a_run_gives_a_complete_record(small_config, small_data, tmp_path):
    epochs = []
    record = run.execute(small_config, Place(small_data), lambda *said: epochs.append(said[:2]))
    assert record["status"] == "done" and record["error"] is None
    assert epochs == [(1, 2), (2, 2)]
    assert RunConfig.from_dict(record["config"]) == small_config
    assert 0 <= record["top1_last"] <= 100
    assert record["top1_best_test"] is None and record["top1_val"] is None
    counts = (record["params_peft"], record["params_head"], record["params_total"])
    width = timm.create_model(small_config.backbone).num_features
    assert counts == (0, 10 * (width + 1), 10 * (width + 1))
    assert record["weights_source"] == "shipped" and len(record["weights_fingerprint"]) == 64
    assert record["data_variant"] == "png" and record["mean"] == [0.5, 0.5, 0.5]
    assert (record["torch"], record["timm"]) == (torch.__version__.split("+")[0], timm.__version__)
    json.dumps(record)


@pytest.mark.parametrize("tag", ["vit_demo_patch8_32.shapes", "swin_demo_patch4_window4_32.shapes"])
@pytest.mark.parametrize("method", methods.names())
def test_every_method_leaves_a_record(method, tag, small_config, small_data):
    if (method, tag[:4]) == ("fact", "swin"):
        pytest.skip("FacT is a ViT method: its paper and code have no Swin")
    record = run.execute(
        dataclasses.replace(small_config, method=method, backbone=tag), Place(small_data)
    )
    assert record["error"] is None and record["gflops_per_image"] > 0


def test_the_same_config_gives_the_same_bits(small_config, small_data):
    config = dataclasses.replace(small_config, method="lora", options={"rank": 2})
    first, again = (lasting(run.execute(config, Place(small_data))) for _ in range(2))
    assert first == again
    other = run.execute(dataclasses.replace(config, seed=1), Place(small_data))
    assert other["curve"] != first["curve"]


def test_scoring_on_val_and_on_every_epoch(small_config, small_data):
    config = dataclasses.replace(small_config, train_split="train", eval_split="val")
    record = run.execute(config, Place(small_data))
    assert record["top1_last"] is None and 0 <= record["top1_val"] <= 100
    config = dataclasses.replace(small_config, eval_every=1)
    record = run.execute(config, Place(small_data))
    curve = [point["top1"] for point in record["curve"]]
    assert record["top1_best_test"] == max(curve) and record["top1_last"] == curve[-1]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"recipe": Recipe(optimizer="sgd", lr=1e38, epochs=3, warmup_epochs=0)}, "Diverged: loss"),
        ({"task": "textures"}, "DataError: .*textures: no such folder"),
        ({"backbone": "vit_base_patch16_224"}, "BackboneError: .*vit_base_patch16_224"),
    ],
)
def test_what_goes_wrong_is_recorded(small_config, small_data, change, message):
    config = dataclasses.replace(small_config, **change)
    record = run.execute(config, Place(small_data))
    assert record["status"] == "failed" and record["run_id"] == config.run_id
    assert re.match(message, record["error"])
    assert "\n" not in record["error"] and record["host"]


def test_head_initialisations():
    head = torch.nn.Linear(512, 200)
    run.init_head(head, "zero")
    assert not head.weight.any() and not head.bias.any()
    run.init_head(head, "trunc_normal")
    assert head.weight.std().item() == pytest.approx(0.02, rel=0.05) and not head.bias.any()
    run.init_head(head, "vpt")  # Kaiming-normal by fan-out: std sqrt(2 / classes)
    assert head.weight.std().item() == pytest.approx(math.sqrt(2 / 200), rel=0.05)
    assert torch.allclose(head.bias, torch.tensor(-4.59512))
    run.init_head(head, "linear")
    assert head.weight.abs().max() <= 1 / math.sqrt(512) and head.bias.any()


def test_flops_of_vit_b_are_the_known_number():
    """17.6 G multiply-adds (DeiT's and timm's figure for ViT-B/16 at 224), counted by hand."""
    model = timm.create_model("vit_base_patch16_224.orig_in21k", num_classes=1000)
    d, tokens = 768, 197
    patches = 196 * d * 3 * 16 * 16
    block = tokens * 12 * d * d + 2 * tokens * tokens * d
    expected = 2 * (patches + 12 * block + d * 1000)
    assert run.forward_flops(model, 224, CPU) == expected
    assert expected / 2e9 == pytest.approx(17.6, abs=0.1)


def test_a_frozen_backbone_never_runs_its_own_dropout(small_config):
    for tag in ("vit_demo_patch8_32.shapes", "swin_demo_patch4_window4_32.shapes"):
        model = methods.apply("linear", backbones.create(tag, 10).model).train()
        x = torch.randn(4, 3, 32, 32)
        assert torch.equal(model(x), model(x))


def test_records_are_written_once_and_read_back(tmp_path, small_config):
    results = Results(tmp_path)
    run_id = small_config.run_id
    assert results.read(run_id) is None and list(results.all()) == []
    path = results.write(failed(small_config, "no luck"))
    assert results.read(run_id)["error"] == "no luck"
    assert list(path.parent.iterdir()) == [path]
    whole = path.read_text()
    for damage in (whole[: len(whole) // 2], "[]", whole.replace('"schema": 1', '"schema": 99')):
        path.write_text(damage)
        assert results.read(run_id) is None
        assert list(results.all()) == [(path, None)]


def test_a_failing_write_leaves_the_old_record(tmp_path, small_config, monkeypatch):
    results = Results(tmp_path)
    path = results.write(failed(small_config, "first"))

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        results.write(failed(small_config, "second"))
    assert results.read(small_config.run_id)["error"] == "first"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("method", methods.names())
def test_every_method_trains_and_scores_a_full_size_vit_b(method, tmp_path):
    """Two steps and an evaluation on ViT-B/16 at 224 pixels, random weights, VTAB layout."""
    sizes = {"trainval": 4, "test": 2}
    write_task(tmp_path, "vtab-1k", "cifar", sizes, pixels=40, suffix="jpg")
    recipe = Recipe(epochs=1, batch_size=2, warmup_epochs=0)
    tag = "vit_base_patch16_224.orig_in21k"
    config = RunConfig("vtab-1k", "cifar", tag, method, recipe=recipe, smoke=True)
    record = run.execute(config, Place(tmp_path, weights="random"))
    assert record["error"] is None and math.isfinite(record["curve"][0]["loss"])
