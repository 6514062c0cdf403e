"""Dropout and drop path of the backbone under every method; blocks that are refused."""

import copy
from itertools import pairwise

import pytest
import torch
from small_models import backbone, images
from timm.layers import DropPath
from torch import nn

from rlrr_bench import methods
from rlrr_bench.methods.anatomy import set_drop_path, set_dropout


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "kind, name", [("vit", "rlrr"), ("vit", "adapter"), ("swin", "vpt"), ("swin", "arc")]
)
def test_drop_path_before_or_after_a_method(kind, name, when):
    for drop, cls in (("path", DropPath), ("element", nn.Dropout)):
        torch.manual_seed(0)
        model = backbone(kind)
        if when == "before":
            set_drop_path(model, 0.4, drop)
        methods.apply(name, model)
        if when == "after":
            set_drop_path(model, 0.4, drop)
        blocks = [m for m in model.modules() if hasattr(m, "drop_path1")]
        rates = []
        for block in blocks:
            assert type(block.drop_path1) is type(block.drop_path2)
            assert type(block.drop_path1) in (cls, nn.Identity)
            p = "drop_prob" if drop == "path" else "p"
            assert getattr(block.drop_path1, p, 0) == getattr(block.drop_path2, p, 0)
            rates.append(getattr(block.drop_path1, p, 0))
        steps = [b - a for a, b in pairwise(rates)]
        assert len(rates) == (3 if kind == "vit" else 5)
        assert rates[0] == 0 and rates[-1] == 0.4
        assert steps == pytest.approx([steps[0]] * len(steps))
        x = images()
        assert torch.equal(model.eval()(x), model(x))
        model.train()
        assert not torch.equal(model(x), model(x))
        set_drop_path(model, 0.0)
        assert not any(isinstance(m, DropPath) for m in model.modules())


def test_kinds_of_drop_path():
    """Path: a sample's branch is there, scaled by 1 / (1 - p), or not; element: entry by entry."""
    torch.manual_seed(0)
    for kind in ("path", "element"):
        model = backbone("vit").train()
        set_drop_path(model, 0.5, kind)
        branch = torch.ones(200, 3, 40)
        dropped = model.blocks[-1].drop_path2(branch)
        assert set(dropped.unique().tolist()) == {0.0, 2.0}
        whole = [len(sample.unique()) == 1 for sample in dropped]
        assert all(whole) if kind == "path" else not any(whole)
    for rate, kind in ((0.1, "paths"), (1.0, "path"), (-0.1, "path")):
        with pytest.raises(methods.MethodError):
            set_drop_path(model, rate, kind)


def test_dropout_of_the_vit():
    model = methods.apply("adapter", backbone("vit"), dropout=0.3)
    set_dropout(model, 0.1)
    assert model.pos_drop.p == 0.1 and model.head_drop.p == 0.0
    for block in model.blocks:
        assert (block.mlp.drop1.p, block.mlp.drop2.p) == (0.1, 0.1)
        assert (block.attn.proj_drop.p, block.attn.attn_drop.p) == (0.0, 0.0)
        assert block.mlp_adapter[2].p == 0.3  # the method's own
    with pytest.raises(methods.MethodError):
        set_dropout(backbone("swin"), 0.1)


def test_methods_refuse_blocks_they_do_not_know():
    model = copy.deepcopy(backbone("vit"))
    model.blocks[0].__class__ = type("OtherBlock", (type(model.blocks[0]),), {})
    with pytest.raises(methods.MethodError, match="OtherBlock"):
        methods.apply("adapter", model)
    model = backbone("vit")
    model.global_pool = "avg"
    with pytest.raises(methods.MethodError, match="class token"):
        methods.apply("vpt", model)
