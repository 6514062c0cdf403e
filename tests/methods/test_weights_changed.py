"""LoRA, FacT, SSF, RLRR and ARC against a plain timm model with the changed weights."""

import pytest
import torch
import torch.nn.functional as F
from small_models import X, backbone, close, perturbed, with_weights
from torch import nn


def test_lora_equals_hugging_face_peft():
    from peft import LoraConfig, get_peft_model

    ours = perturbed("vit", "lora", dropout=0.0, alpha=12)
    config = LoraConfig(r=8, lora_alpha=12, target_modules=["qkv"], lora_dropout=0.0)
    theirs = get_peft_model(backbone("vit", torch.float64), config).double()
    theirs.base_model.model.load_state_dict(
        {k: v for k, v in ours.state_dict().items() if k.startswith("head.")}, strict=False
    )
    pairs = []
    for mine, other in zip(ours.blocks, theirs.base_model.model.blocks, strict=True):
        for factor in ("lora_A", "lora_B"):
            a = getattr(mine.attn.qkv, factor)["qkv"]
            b = getattr(other.attn.qkv, factor)["default"].weight
            b.data.copy_(a.data)
            pairs.append((a, b))
    a, b = ours(X), theirs(X)
    assert close(a, b)
    labels = torch.tensor([0, 1, 2, 3])
    for output in (a, b):
        F.cross_entropy(output, labels).backward()
    assert all(close(a.grad, b.grad) and b.grad.any() for a, b in pairs)


@torch.no_grad()
def fact_increments(model: nn.Module, scale: float) -> torch.Tensor:
    """The whole tensor of increments by the paper's equation: 12 L x D x D, input index first."""
    shared = model.shared
    if "C" in dict(shared.named_parameters()):
        return scale * torch.einsum("ia,abk,kt,bo->tio", shared.U, shared.C, shared.P, shared.V)
    cores = []
    for block in model.blocks:
        for layer in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
            cores.append(layer.S)
    return scale * torch.einsum("ia,tab,bo->tio", shared.U, torch.cat(cores), shared.V)


@pytest.mark.parametrize("mode", ["tk", "tt"])
def test_fact_equals_the_full_increment_tensor(mode):
    model = perturbed("vit", "fact", mode=mode, rank=4, scale=3.0)
    full, d = fact_increments(model, 3.0), model.embed_dim
    assert full.shape == (12 * 3, d, d)
    weights = {k: v.clone() for k, v in backbone("vit", torch.float64).state_dict().items()}
    for i in range(3):
        block, prefix = full[12 * i : 12 * i + 12], f"blocks.{i}."
        for g in range(3):
            weights[prefix + "attn.qkv.weight"][g * d : (g + 1) * d] += block[g].T
        weights[prefix + "attn.proj.weight"] += block[3].T
        for g in range(4):
            weights[prefix + "mlp.fc1.weight"][g * d : (g + 1) * d] += block[4 + g].T
            weights[prefix + "mlp.fc2.weight"][:, g * d : (g + 1) * d] += block[8 + g].T
    head = {k: v for k, v in model.state_dict().items() if k.startswith("head.")}
    assert close(model(X), with_weights(model, "vit", weights | head))


@torch.no_grad()
def test_fact_tk_in_the_codes_layout():
    """fc1: one r x 4r core with the slice index fastest; fc2: its own such core, transposed."""
    r, d = 5, 32
    model = perturbed("vit", "fact", rank=r, slices="code")
    shared = model.shared
    x = torch.randn(7, d, dtype=torch.float64)
    hidden = torch.randn(7, 4 * d, dtype=torch.float64)
    for i, block in enumerate(model.blocks):
        s = [shared.C @ shared.P[:, 12 * i + t] for t in range(12)]  # the cores S_t
        fc1, fc2 = torch.empty(r, 4 * r).double(), torch.empty(r, 4 * r).double()
        for row in range(r):
            for column in range(r):
                for g in range(4):
                    fc1[row, 4 * column + g] = s[4 + g][row, column]
                    fc2[row, 4 * column + g] = s[8 + g][row, column]
        codes = x @ shared.U @ fc1
        groups = [codes[:, g * r : (g + 1) * r] @ shared.V for g in range(4)]
        plain = F.linear(x, block.mlp.fc1.weight, block.mlp.fc1.bias)
        assert close(block.mlp.fc1(x), plain + torch.cat(groups, 1))
        codes = torch.cat([hidden[:, g * d : (g + 1) * d] @ shared.U for g in range(4)], 1)
        plain = F.linear(hidden, block.mlp.fc2.weight, block.mlp.fc2.bias)
        assert close(block.mlp.fc2(hidden), plain + codes @ fc2.T @ shared.V)
        y = F.linear(x, block.attn.proj.weight, block.attn.proj.bias)
        assert close(block.attn.proj(x), y + x @ shared.U @ s[3] @ shared.V)


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_ssf_equals_rescaled_weights(kind):
    model = perturbed(kind, "ssf")
    plain, changed = backbone(kind, torch.float64).state_dict(), {}
    for name, layer in model.named_modules():
        if hasattr(layer, "scale") and hasattr(layer, "shift"):
            g, t = layer.scale.detach(), layer.shift.detach()
            weight, bias = plain[f"{name}.weight"], plain[f"{name}.bias"]
            changed[f"{name}.weight"] = (weight.transpose(0, -1) * g).transpose(0, -1)
            changed[f"{name}.bias"] = bias * g + t
    assert len(changed) == 2 * (20 if kind == "vit" else 2 + 5 * 6 + 2 + 1)
    assert close(model(X), with_weights(model, kind, changed))


TABLE_6 = [(*sides, e) for e in (False, True) for sides in ((1, 0), (0, 1), (1, 1))]


@pytest.mark.parametrize("left, right, residual", TABLE_6)
def test_rlrr_equals_rescaled_weights(left, right, residual):
    """Element by element: W[i, j] (1 + l_i r_j), or W[i, j] l_i r_j without the residual."""
    options = {"left": bool(left), "right": bool(right), "residual": residual}
    model = perturbed("vit", "rlrr", **options)
    plain, changed = backbone("vit", torch.float64).state_dict(), {}
    for name, layer in model.named_modules():
        if isinstance(getattr(layer, "shift_bias", None), nn.Parameter):
            parts = 3 if name.endswith("qkv") else 1
            weight = plain[f"{name}.weight"].clone()
            rows = len(weight) // parts
            for part in range(parts):
                for j in range(part * rows, (part + 1) * rows):
                    l_i = layer.left[part].detach() if left else torch.ones(len(weight[j])).double()
                    r_j = layer.right[j].item() if right else 1.0
                    weight[j] *= residual + l_i * r_j
            changed[f"{name}.weight"] = weight
            changed[f"{name}.bias"] = plain[f"{name}.bias"] + layer.shift_bias.detach()
        elif isinstance(getattr(layer, "scale", None), nn.Parameter):
            g, t = layer.scale.detach(), layer.shift.detach()
            weight = plain[f"{name}.weight"]
            changed[f"{name}.weight"] = g.view(-1, *[1] * (weight.dim() - 1)) * weight
            changed[f"{name}.bias"] = plain[f"{name}.bias"] * g + t
    assert len(changed) == 2 * (3 * 6 + 2)
    assert close(model(X), with_weights(model, "vit", changed))


def test_arc_equals_transformed_weights():
    model = perturbed("vit", "arc", rank=6)
    plain, changed = backbone("vit", torch.float64).state_dict(), {}
    for i, block in enumerate(model.blocks):
        for name, layer, site in (
            (f"blocks.{i}.attn.qkv", block.attn.qkv, "attention_0"),
            (f"blocks.{i}.mlp.fc1", block.mlp.fc1, "mlp_0"),
        ):
            u, c, a = (t.detach() for t in (model.shared[site], layer.arc.c, layer.arc.a))
            m = torch.eye(32).double() + u @ torch.diag(c) @ u.T
            weight = plain[f"{name}.weight"].T  # in x out
            changed[f"{name}.weight"] = (m @ weight).T
            changed[f"{name}.bias"] = plain[f"{name}.bias"] + a @ weight
    assert close(model(X), with_weights(model, "vit", changed))
