"""RLRR's own backward pass against plain autograd."""

import pytest
import torch
from small_models import backbone

import methods
from methods.rlrr import RLRRLinear

VARIANTS = [
    {"left": left, "right": right, "residual": residual}
    for left, right in ((True, True), (True, False), (False, True))
    for residual in (True, False)
] + [{"qkv": "fused"}, {"shift": False}, {"left": False, "right": False}]


def results(options: dict, kind: str, fast: bool, dtype: torch.dtype, autocast: bool = False):
    torch.manual_seed(0)
    model = methods.apply("rlrr", backbone(kind, dtype), **options)
    for module in model.modules():
        if isinstance(module, RLRRLinear):
            module.fast = fast
    x = torch.randn(3, 3, 32, 32, dtype=dtype, generator=torch.Generator().manual_seed(1))
    x.requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = model(x)
    logits.float().square().sum().backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    return logits.detach(), x.grad, grads


@pytest.mark.parametrize("kind", ["vit", "swin"])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_gradients_are_those_of_autograd(options, kind):
    fast, plain = (results(options, kind, fast, torch.float64) for fast in (True, False))
    torch.testing.assert_close(fast[0], plain[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(fast[1], plain[1], rtol=1e-9, atol=1e-12)
    assert fast[2].keys() == plain[2].keys()
    for name, gradient in plain[2].items():
        torch.testing.assert_close(fast[2][name], gradient, rtol=1e-9, atol=1e-11, msg=name)


def test_under_autocast_it_is_as_near_to_float32_as_autograd():
    exact = results({}, "vit", False, torch.float32)
    errors = []
    for fast in (True, False):
        found = results({}, "vit", fast, torch.float32, autocast=True)
        assert all(g.dtype == torch.float32 for g in found[2].values())
        off = sum((found[2][n] - g).square().sum() for n, g in exact[2].items())
        errors.append((off / sum(g.square().sum() for g in exact[2].values())).sqrt().item())
    assert errors[0] < 0.05 and errors[0] < 1.5 * errors[1]


def test_the_rescaled_weight_is_not_kept():
    kept = []
    torch.manual_seed(0)
    model = methods.apply("rlrr", backbone("vit"))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        model(torch.randn(2, 3, 32, 32))
    own = {p.data_ptr() for p in model.parameters()}
    squares = {tuple(m.weight.shape) for m in model.modules() if isinstance(m, RLRRLinear)}
    assert not [t for t in kept if tuple(t.shape) in squares and t.data_ptr() not in own]
