"""One run and its record."""

import dataclasses
import math
import re
from typing import Any

import pytest
import timm
import torch
from samples import write_task

from rlrr_bench import methods
from rlrr_bench.benchmarks import backbones, run
from rlrr_bench.benchmarks.config import Recipe, RunConfig
from rlrr_bench.benchmarks.context import RunContext
from rlrr_bench.benchmarks.record import FIELDS, RunRecord

CPU = torch.device("cpu")
# What depends on the clock, the machine or the checkout, not on the run.
VOLATILE = ("seconds", "images_per_second", "peak_memory", "started", "ended", "git")


def lasting(record: RunRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in FIELDS if not name.startswith(VOLATILE)}


def test_a_run_gives_a_complete_record(small_config, small_data, tmp_path):
    epochs = []
    record = run.execute(small_config, RunContext(small_data), epochs.append)
    assert record.status == "done" and record.done and record.error is None
    assert [(epoch.epoch, epoch.epochs) for epoch in epochs] == [(1, 2), (2, 2)]
    assert [epoch.loss for epoch in epochs] == [point["loss"] for point in record.curve]
    assert epochs[0].top1 is None and epochs[1].top1 == record.top1_last
    assert record.config == small_config and record.run_id == small_config.run_id
    assert 0 <= record.top1_last <= 100
    assert record.top1_best_test is None and record.top1_val is None
    counts = (record.params_peft, record.params_head, record.params_total)
    width = timm.create_model(small_config.backbone).num_features
    assert counts == (0, 10 * (width + 1), 10 * (width + 1))
    assert record.weights_source == "shipped" and len(record.weights_fingerprint) == 64
    assert record.data_variant == "png" and record.mean == (0.5, 0.5, 0.5)
    assert (record.torch, record.timm) == (torch.__version__.split("+")[0], timm.__version__)
    assert RunRecord.from_json(record.to_json().encode(), record.run_id) == record


@pytest.mark.parametrize("tag", ["vit_demo_patch8_32.shapes", "swin_demo_patch4_window4_32.shapes"])
@pytest.mark.parametrize("method", methods.names())
def test_every_method_leaves_a_record(method, tag, small_config, small_data):
    if (method, tag[:4]) == ("fact", "swin"):
        pytest.skip("FacT is a ViT method: its paper and code have no Swin")
    record = run.execute(
        dataclasses.replace(small_config, method=method, backbone=tag), RunContext(small_data)
    )
    assert record.error is None and record.gflops_per_image > 0


def test_the_same_config_gives_the_same_bits(small_config, small_data):
    config = dataclasses.replace(small_config, method="lora", options={"rank": 2})
    first, again = (lasting(run.execute(config, RunContext(small_data))) for _ in range(2))
    assert first == again
    other = run.execute(dataclasses.replace(config, seed=1), RunContext(small_data))
    assert other.curve != first["curve"]


def test_scoring_on_val_and_on_every_epoch(small_config, small_data):
    config = dataclasses.replace(small_config, train_split="train", eval_split="val")
    record = run.execute(config, RunContext(small_data))
    assert record.top1_last is None and 0 <= record.top1_val <= 100
    config = dataclasses.replace(small_config, eval_every=1)
    record = run.execute(config, RunContext(small_data))
    curve = [point["top1"] for point in record.curve]
    assert record.top1_best_test == max(curve) and record.top1_last == curve[-1]


@pytest.mark.parametrize(
    "change, reason, message",
    [
        (
            {"recipe": Recipe(optimizer="sgd", lr=1e38, epochs=3, warmup_epochs=0)},
            "diverged",
            "Diverged: loss",
        ),
        ({"task": "textures"}, "bad_input", "DataError: .*textures: no such folder"),
        (
            {"backbone": "vit_base_patch16_224"},
            "bad_input",
            "BackboneError: .*vit_base_patch16_224",
        ),
    ],
)
def test_what_goes_wrong_is_recorded(small_config, small_data, change, reason, message):
    config = dataclasses.replace(small_config, **change)
    record = run.execute(config, RunContext(small_data))
    assert record.status == "failed" and record.run_id == config.run_id
    assert re.match(message, record.error) and record.reason == reason
    assert "\n" not in record.error and record.host


FAULTY = '''"""Its layer has a width that is no number."""

from torch import nn


def attach(anatomy, options):
    for block in anatomy.blocks:
        adapt(block)


def adapt(block):
    return nn.Linear(block.width, "wide")


def count(anatomy, options):
    return 0
'''


def test_a_failed_run_names_the_lines_in_the_method_that_led_there(
    small_config, small_data, tmp_path, no_plugins
):
    plugin = tmp_path / "faulty.py"
    plugin.write_text(FAULTY)
    methods.add_plugin(plugin)
    config = dataclasses.replace(small_config, method="faulty")
    plugin.write_text("")  # the lines are those of the text that was registered
    record = run.execute(config, RunContext(small_data))
    assert record.reason == "error" and record.error.startswith("TypeError: ")
    attach, adapt, innermost = record.traceback
    assert attach == f"{plugin}:8 in attach: adapt(block)"
    assert adapt == f'{plugin}:12 in adapt: return nn.Linear(block.width, "wide")'
    assert "torch" in innermost and " in __init__: " in innermost
    assert RunRecord.from_json(record.to_json().encode(), record.run_id) == record


def test_a_failure_outside_of_the_method_names_the_last_line(small_config, small_data):
    config = dataclasses.replace(small_config, task="textures")
    (line,) = run.execute(config, RunContext(small_data)).traceback
    assert "benchmarks/data/lists.py:" in line and " in locate: raise DataError" in line


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


def test_flops_of_attention_are_counted_in_every_method(small_config):
    """With the fused kernel, whose two products the counter does not see on a CPU, and without."""
    for tag in ("vit_tiny_patch16_224.augreg_in21k", "vit_demo_patch8_32.shapes"):
        for method in ("full",) if "tiny" in tag else ("full", "vpt", "fact", "lora", "rlrr"):
            model = methods.apply(method, timm.create_model(tag, num_classes=1000))
            size = model.pretrained_cfg["input_size"][-1]
            fused = run.forward_flops(model, size, CPU)
            for block in model.blocks:
                assert block.attn.fused_attn
                block.attn.fused_attn = False
            assert run.forward_flops(model, size, CPU) == fused, (tag, method)
            if "tiny" in tag:
                assert fused / 1e9 == pytest.approx(2.51, abs=0.01)


def test_a_frozen_backbone_never_runs_its_own_dropout(small_config):
    for tag in ("vit_demo_patch8_32.shapes", "swin_demo_patch4_window4_32.shapes"):
        model = methods.apply("linear", backbones.create(tag, 10).model).train()
        x = torch.randn(4, 3, 32, 32)
        assert torch.equal(model(x), model(x))


def test_random_weights_make_no_result(small_config, small_data):
    context = RunContext(small_data, weights="random")
    assert run.execute(small_config, context).done  # a smoke run
    record = run.execute(dataclasses.replace(small_config, smoke=False), context)
    assert record.error == "InputError: --weights random makes no result; add --smoke"
    assert record.reason == "bad_input"


@pytest.mark.slow
@pytest.mark.parametrize("method", methods.names())
def test_every_method_trains_and_scores_a_full_size_vit_b(method, tmp_path):
    """Two steps and an evaluation on ViT-B/16 at 224 pixels, random weights, VTAB layout."""
    batch = 2 if method == "mlp" else 1  # it normalises over a batch
    sizes = {"trainval": 2 * batch, "test": 1}
    write_task(tmp_path, "vtab-1k", "cifar", sizes, pixels=40, suffix="jpg")
    recipe = Recipe(epochs=1, batch_size=batch, warmup_epochs=0)
    tag = "vit_base_patch16_224.orig_in21k"
    config = RunConfig("vtab-1k", "cifar", tag, method, recipe=recipe, smoke=True)
    record = run.execute(config, RunContext(tmp_path, weights="random"))
    assert record.error is None and math.isfinite(record.curve[0]["loss"])
