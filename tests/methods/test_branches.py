"""Adapters, branches and heads against their equations by hand; what partial trains."""

import pytest
import torch
import torch.nn.functional as F
from small_models import X, adapted, backbone, close, images, perturbed
from torch import nn


def by_blocks(model: nn.Module, plain_block) -> torch.Tensor:
    """Logits of a model whose blocks are computed by plain_block(block of the model, tokens)."""
    if hasattr(model, "layers"):
        x = model.patch_embed(X)
        for stage in model.layers:
            x = stage.downsample(x)
            for block in stage.blocks:
                x = plain_block(block, x)
    else:
        x = model._pos_embed(model.patch_embed(X))
        for block in model.blocks:
            x = plain_block(block, x)
    return model.forward_head(model.norm(x))


def attention(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Attention of a block, computed by a plain timm block that holds the same tensors."""
    plain = object.__new__(block.base_type)
    plain.__dict__.update(block.__dict__)
    y = block.norm1(x)
    return plain._attn(y) if x.dim() == 4 else plain.attn(y)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_adaptformer_by_hand(kind):
    model = perturbed(kind, "adaptformer", scale=0.7)

    def block_by_hand(block, x):
        down, up = block.adapter[0], block.adapter[-1]
        y = x + attention(block, x)
        branch = (y @ down.weight.T + down.bias).clamp(min=0) @ up.weight.T + up.bias
        return y + block.mlp(block.norm2(y)) + 0.7 * branch

    assert close(model(X), by_blocks(model, block_by_hand))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["vit", "swin"])
@pytest.mark.parametrize("placement", ["pfeiffer", "houlsby"])
def test_adapter_by_hand(kind, placement):
    model = perturbed(kind, "adapter", bottleneck=3, placement=placement)

    def adapter(layers, x):
        hidden = F.gelu(x @ layers[0].weight.T + layers[0].bias)
        return x + hidden @ layers[-1].weight.T + layers[-1].bias

    def block_by_hand(block, x):
        y = attention(block, x)
        x = x + (adapter(block.attention_adapter, y) if placement == "houlsby" else y)
        return x + adapter(block.mlp_adapter, block.mlp(block.norm2(x)))

    assert close(model(X), by_blocks(model, block_by_hand))


@torch.no_grad()
def test_arc_on_swin_by_hand():
    model = perturbed("swin", "arc", rank=6)

    def block_by_hand(block, x):
        y = x + attention(block, x)  # the attention site is tested on the ViT
        u = model.shared[block.arc.key]
        y = y + (y @ u) @ torch.diag(block.arc.c) @ u.T + block.arc.a
        return y + block.mlp(block.norm2(y))

    assert close(model(X), by_blocks(model, block_by_hand))
    keys = {f"{site}_{stage}" for site in ("attention", "mlp") for stage in range(3)}
    assert set(model.shared.keys()) == keys
    assert [model.shared[f"mlp_{stage}"].shape[0] for stage in range(3)] == [16, 32, 64]


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_adapter_with_all_zeros_never_leaves_zero(activation):
    """VPT's published start: only the bias of the output moves, the rest has no gradient."""
    options = {"bottleneck": 3, "init": "zero", "activation": activation}
    model = adapted("vit", "adapter", options).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.05, 0.9)
    for _ in range(50):
        optimizer.zero_grad()
        F.cross_entropy(model(images()), torch.tensor([0, 1, 2, 3])).backward()
        optimizer.step()
    for block in model.blocks:
        down, up = block.mlp_adapter[0], block.mlp_adapter[-1]
        for still in (down.weight, down.bias, up.weight):
            assert not still.any()
        assert up.bias.abs().min() > 0


@torch.no_grad()
def test_mlp_head_by_hand():
    model = adapted("vit", "mlp", {}, torch.float64)
    features = backbone("vit", torch.float64).forward_features(X)[:, 0]
    hidden = [m for m in model.head_drop if isinstance(m, nn.Linear)]
    norms = [m for m in model.head_drop if isinstance(m, nn.BatchNorm1d)]
    assert len(hidden) == len(norms) == 3
    assert [m.p for m in model.head_drop if isinstance(m, nn.Dropout)] == [0.0, 0.1, 0.1, 0.1]
    h = features
    for layer, norm in zip(hidden, norms, strict=True):
        assert layer.weight.std().item() == pytest.approx((2 / 32) ** 0.5, rel=0.1)
        norm.weight.uniform_(0.5, 2), norm.running_mean.normal_(), norm.running_var.uniform_(1, 2)
        h = F.linear(h, layer.weight, layer.bias).relu()
        h = (h - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    assert close(model(X), F.linear(h, model.head.weight, model.head.bias))


@pytest.mark.parametrize(
    "kind, k, expected",
    [
        ("vit", 1, {"blocks.2", "norm"}),
        ("vit", 2, {"blocks.1", "blocks.2", "norm"}),
        ("swin", 1, {"layers.2.blocks.0", "norm"}),
        ("swin", 2, {"layers.2.blocks.0", "layers.2.downsample", "layers.1.blocks.1", "norm"}),
        (
            "swin",
            3,
            {"layers.2.blocks.0", "layers.2.downsample", "layers.1.blocks.0", "layers.1.blocks.1"}
            | {"norm"},
        ),
    ],
)
def test_partial_trains_whole_modules(kind, k, expected):
    model = adapted(kind, "partial", {"blocks": k})
    inside = tuple(f"{path}." for path in expected)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == name.startswith((*inside, "head.")), name


def test_dropout_acts_on_the_low_rank_code():
    for name, rank in (("fact", 5), ("arc", 6), ("adaptformer", 7), ("adapter", 8)):
        key = "bottleneck" if name.startswith("adapt") else "rank"
        model = adapted("vit", name, {key: rank, "dropout": 0.5})
        shapes = {}
        for module in model.modules():
            if isinstance(module, nn.Dropout) and module.p == 0.5:
                shapes[module] = None
                module.register_forward_hook(
                    lambda m, given, y, shapes=shapes: shapes.update({m: given[0].shape})
                )
        model(images())
        assert {shape[-1] for shape in shapes.values()} == {rank}, name
