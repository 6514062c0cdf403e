"""timm's VisionTransformer: tokens (B, N, D) in a row, the class token first."""

from timm.layers import Mlp
from timm.models.vision_transformer import Block as ViTBlock
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ..errors import MethodError
from .family import Family
from .slots import Layout, Slot, block_slots, patch_slots
from .steps import Step, block_step, whole_step


class ViT(Family):
    kind = "vit"
    model_type = VisionTransformer
    block_type = ViTBlock

    def layout(self, model: nn.Module) -> Layout:
        patch, patch_norm = patch_slots(model)
        blocks = Slot(model, "blocks", "blocks")
        names = [name for name, _ in model.blocks.named_children()]
        return Layout(
            width=model.num_features,
            prefix=model.num_prefix_tokens,
            pooling=model.global_pool,
            patch=patch,
            patch_norm=patch_norm,
            blocks=[block_slots(blocks.inside(name), i) for i, name in enumerate(names)],
            merges=[],
            norm=Slot(model, "norm", "norm"),
            before_head=Slot(model, "head_drop", "head_drop"),
            head=Slot(model, "head", "head"),
        )

    def steps(self, model: nn.Module) -> list[Step]:
        embedding = (model.cls_token, model.reg_token, model.pos_embed)
        attention_pool = () if model.attn_pool is None else (model.attn_pool,)
        return [
            whole_step(model.patch_embed),
            Step(model._pos_embed, (model.pos_drop,), tuple(t for t in embedding if t is not None)),
            *map(whole_step, (model.patch_drop, model.norm_pre)),
            *map(block_step, model.blocks),
            whole_step(model.norm),
            Step(model.pool, attention_pool),
            *map(whole_step, (model.fc_norm, model.head_drop, model.head)),
        ]

    def attention_branch(self, block: nn.Module, x: Tensor) -> Tensor:
        return block.drop_path1(block.ls1(block.attn(block.norm1(x))))

    def mlp_branch(self, block: nn.Module, x: Tensor) -> Tensor:
        return block.drop_path2(block.ls2(block.mlp(block.norm2(x))))


def set_dropout(model: nn.Module, rate: float) -> None:
    """Dropout of a ViT's embedding (after the position table) and MLPs (after GELU and fc2).

    VPT's ViT has it in these two parts, with 0.1 in full fine-tuning; its attention weights and
    projections have none. Works before or after a method is attached.

    Raises:
        MethodError: the model is not a ViT, or the rate is not in [0, 1).
    """
    if not isinstance(model, VisionTransformer):
        raise MethodError(f"{type(model).__name__}: set_dropout is for a VisionTransformer")
    if not 0 <= rate < 1:
        raise MethodError(f"dropout rate: found {rate!r}, expected 0 <= rate < 1")
    model.pos_drop.p = rate
    for module in model.modules():
        if isinstance(module, Mlp):
            module.drop1.p = module.drop2.p = rate
