"""Every method against an independent computation of its equation, mostly in a plain timm model."""

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from small_models import adapted, backbone, images, perturb
from timm.layers import DropPath
from torch import nn

import methods
from methods.anatomy import set_drop_path, set_dropout

X = images(dtype=torch.float64)


def perturbed(kind: str, name: str, **options) -> nn.Module:
    return perturb(adapted(kind, name, options, torch.float64))


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def with_weights(model: nn.Module, kind: str, changed: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits of the plain backbone with the model's head and some other tensors changed."""
    plain = backbone(kind, torch.float64)
    head = {k: v for k, v in model.state_dict().items() if k.startswith("head.")}
    plain.load_state_dict(plain.state_dict() | head | changed, strict=True)
    return plain(X)


# ---------------------------------------------------------------------------- linear increments


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


# ------------------------------------------------------------------------------ rescaled weights


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


# ------------------------------------------------------------------------- branches and adapters


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


# --------------------------------------------------------------------------------------- prompts


@torch.no_grad()
@pytest.mark.parametrize("mode", ["shallow", "deep"])
def test_vpt_on_vit_by_concatenation(mode):
    model = perturbed("vit", "vpt", mode=mode, prompts=3)
    plain = backbone("vit", torch.float64)
    x = plain._pos_embed(plain.patch_embed(X))
    cls, patches = x[:, :1], x[:, 1:]
    state = torch.empty(len(X), 0, plain.embed_dim).double()
    for i, block in enumerate(plain.blocks):
        if mode == "deep" or i == 0:
            state = model.blocks[i].prompts.expand(len(X), -1, -1)
        cls, state, patches = block(torch.cat([cls, state, patches], 1)).split([1, 3, 16], 1)
    expected = F.linear(plain.norm(cls[:, 0]), model.head.weight, model.head.bias)
    assert close(model(X), expected)


def swin_by_loops(model: nn.Module, image: torch.Tensor, length: int) -> torch.Tensor:
    """VPT on Swin for one image (3, H, W), window by window; logits (classes)."""
    x = model.patch_embed(image[None])[0]  # H, W, D
    prompts = None
    for stage in model.layers:
        if prompts is not None:  # merging: 2 x 2 patches, column by column; a prompt four times
            h, w, d = x.shape
            merged = torch.empty(h // 2, w // 2, 4 * d, dtype=x.dtype)
            for i in range(h // 2):
                for j in range(w // 2):
                    square = [x[2 * i + a, 2 * j + b] for b in (0, 1) for a in (0, 1)]
                    merged[i, j] = torch.cat(square)
            norm, reduction = stage.downsample.norm, stage.downsample.reduction
            x = reduction(norm(merged))
            prompts = reduction(norm(torch.cat([prompts] * 4, 1)))
        for block in stage.blocks:
            if block.prompts is not None:
                prompts = block.prompts
            x, prompts = swin_block_by_loops(block, x, prompts)
    tokens = torch.cat([prompts, x.flatten(0, 1)])
    assert len(prompts) == length
    return model.head.fc(model.norm.base_type.forward(model.norm, tokens).mean(0))


def swin_block_by_loops(block, x, prompts):
    (h, w, d), p = x.shape, len(prompts)
    size, shift = block.window_size[0], block.shift_size[0]
    attn, heads = block.attn, block.attn.num_heads
    table = attn.relative_position_bias_table
    y, z = block.norm1(x), block.norm1(prompts)
    new_x, outputs = torch.empty_like(x), []
    for top in range(0, h, size):
        for start in range(0, w, size):
            # places of the window in the shifted image, and where they came from
            places = [(top + i, start + j) for i in range(size) for j in range(size)]
            source = [((i + shift) % h, (j + shift) % w) for i, j in places]
            wrapped = [(i + shift >= h, j + shift >= w) for i, j in places]
            tokens = torch.cat([z, torch.stack([y[i, j] for i, j in source])])
            q, k, v = attn.qkv(tokens).view(p + size**2, 3, heads, d // heads).unbind(1)
            result = torch.empty(p + size**2, heads, d // heads, dtype=x.dtype)
            for head in range(heads):
                scores = q[:, head] @ k[:, head].T / (d // heads) ** 0.5
                for a in range(size**2):
                    for b in range(size**2):
                        (i, j), (m, n) = places[a], places[b]
                        entry = (i - m + size - 1) * (2 * size - 1) + j - n + size - 1
                        scores[p + a, p + b] += table[entry, head]
                        if wrapped[a] != wrapped[b]:  # not neighbours in the image
                            scores[p + a, p + b] -= 100
                result[:, head] = scores.softmax(1) @ v[:, head]
            output = attn.proj(result.flatten(1))
            outputs.append(output[:p])
            for place, token in zip(source, output[p:], strict=True):
                new_x[place] = token
    x, prompts = x + new_x, prompts + torch.stack(outputs).mean(0)
    return tuple(t + block.mlp(block.norm2(t)) for t in (x, prompts))


@torch.no_grad()
@pytest.mark.parametrize("mode", ["shallow", "deep"])
def test_vpt_on_swin_by_loops(mode):
    model = perturbed("swin", "vpt", mode=mode, prompts=2)
    assert [any(b.shift_size) for s in model.layers for b in s.blocks] == [0, 1, 0, 1, 0]
    expected = torch.stack([swin_by_loops(model, image, 2) for image in X[:2]])
    assert close(model(X[:2]), expected)


@pytest.mark.parametrize("mode", ["shallow", "deep"])
def test_vpt_on_swin_keeps_the_images_of_a_batch_apart(mode):
    model = perturbed("swin", "vpt", mode=mode, dropout=0.0).train()
    both = model(X[:2])
    assert close(both, torch.cat([model(X[:1]), model(X[1:2])]))
    assert not close(both[0], both[1])


def test_vpt_start_and_dropout():
    deep = adapted("vit", "vpt", {"prompts": 100})
    bound = (6 / (3 * 8 * 8 + 32)) ** 0.5
    values = torch.cat([block.prompts.detach().flatten() for block in deep.blocks])
    assert values.abs().max() <= bound and values.std() == pytest.approx(bound / 3**0.5, rel=0.03)
    assert [block.dropout.p for block in deep.blocks] == [0.1] * 3
    shallow = adapted("vit", "vpt", {"mode": "shallow"})
    assert shallow.blocks[0].dropout.p == 0.0
    assert type(shallow.blocks[1]) is type(backbone("vit").blocks[1])


# -------------------------------------------------------------------------- dropout of the trunk


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
