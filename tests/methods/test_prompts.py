"""VPT against concatenation by hand, on Swin window by window and sample by sample."""

import pytest
import torch
import torch.nn.functional as F
from small_models import X, adapted, backbone, close, perturbed
from torch import nn


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
            # the window's tokens in the shifted image, and where they came from
            positions = [(top + i, start + j) for i in range(size) for j in range(size)]
            source = [((i + shift) % h, (j + shift) % w) for i, j in positions]
            wrapped = [(i + shift >= h, j + shift >= w) for i, j in positions]
            tokens = torch.cat([z, torch.stack([y[i, j] for i, j in source])])
            q, k, v = attn.qkv(tokens).view(p + size**2, 3, heads, d // heads).unbind(1)
            result = torch.empty(p + size**2, heads, d // heads, dtype=x.dtype)
            for head in range(heads):
                scores = q[:, head] @ k[:, head].T / (d // heads) ** 0.5
                for a in range(size**2):
                    for b in range(size**2):
                        (i, j), (m, n) = positions[a], positions[b]
                        entry = (i - m + size - 1) * (2 * size - 1) + j - n + size - 1
                        scores[p + a, p + b] += table[entry, head]
                        if wrapped[a] != wrapped[b]:  # not neighbours in the image
                            scores[p + a, p + b] -= 100
                result[:, head] = scores.softmax(1) @ v[:, head]
            output = attn.proj(result.flatten(1))
            outputs.append(output[:p])
            for position, token in zip(source, output[p:], strict=True):
                new_x[position] = token
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
