"""Defines plans. A plan stores the weights and settings of a part of a model, in the order that inference reads them.

Plans reference the parameters, so changed values take effect. Derived tensors are cached until the values change.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2fast.engine.derived import TensorCache
from sam2fast.modeling.compiled import CompiledMethod
from sam2fast.modeling.hiera import BlockTrunk
from sam2fast.modeling.hiera_block import MultiScaleBlock
from sam2fast.modeling.image_encoder import FpnNeck, ImageEncoder
from sam2fast.modeling.layers import MLP
from sam2fast.modeling.mask_decoder import MaskDecoder
from sam2fast.modeling.position_encoding import WindowRotations
from sam2fast.modeling.prompt_encoder import PromptEncoder
from sam2fast.modeling.two_way_transformer import TwoWayTransformer


class Linear(NamedTuple):
    """Weights of a linear layer."""

    weight: Tensor  # (N, K)
    bias: Tensor  # (N); None in layers of the perceiver

    def in_dtype(self, dtype: torch.dtype) -> "Linear":
        """Returns the layer with weight and bias in ``dtype``."""
        return Linear(*(x if x is None else x.to(dtype) for x in self))


class Norm(NamedTuple):
    """Weights of a layer norm."""

    weight: Tensor  # (C)
    bias: Tensor  # (C)
    eps: float


class Conv(NamedTuple):
    """Weights and settings of a convolution."""

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    groups: int

    def in_dtype(self, dtype: torch.dtype) -> "Conv":
        """Returns the layer with weight and bias in ``dtype``."""
        return self._replace(weight=self.weight.to(dtype), bias=None if self.bias is None else self.bias.to(dtype))


class Block(NamedTuple):
    """Weights and settings of a block of Hiera or of a plain transformer."""

    window: int  # side of a window; 0 for attention to the whole map
    heads: int
    pool: tuple[int, int] | None  # stride of queries and residual
    ends_stage: bool
    norm1: Norm
    qkv: Linear
    proj: Linear
    residual: Linear | None  # projection of the residual if the block changes the number of channels
    norm2: Norm
    mlp: tuple[Linear, ...]
    rotations: WindowRotations | None  # rotary positions of queries and keys


class Level(NamedTuple):
    """Weights of a level of the neck, and the mask decoder's projection of the level."""

    lateral: Linear
    adds_coarser: bool  # True if the next coarser level is upsampled and added
    head: Linear | None  # the mask decoder's projection
    is_direct: bool  # True if no operation is between lateral and head

    @property
    def product(self) -> Linear | None:
        """Composition of lateral and head as one layer. None if the level is not direct."""
        return composed(self.lateral, self.head) if self.is_direct and self.head else None


class ScaledLevel(NamedTuple):
    """Weights of a level of :class:`ScaledNeck`, and the mask decoder's projection of the level."""

    doublings: tuple[Linear, ...]  # transposed 2x2 convolutions, with GELU between them
    point: Linear  # 1x1 convolution
    conv: Conv  # 3x3 convolution
    head: Linear | None  # the mask decoder's projection


class PlanOfPart:
    """Base class of plans.

    Attributes:
        dtype: Dtype of matrix multiplications. None uses the dtype of the weights.
        prepared: Tensors that ``static`` computes from the weights.
        compiled: Compiled ``forward`` of the part's module, or None. The settings of ``torch.compile`` for ``forward``
            are also used to compile functions in ``static``.
    """

    dtype: torch.dtype | None = None
    prepared: Any = None
    compiled: CompiledMethod | None = None


class EncoderPlan(PlanOfPart):
    """Base class of plans of image encoders. Attributes that an encoder does not use are empty."""

    patches: Conv | None = None  # patch embedding
    blocks: Sequence[Block] = ()
    first_norm: Norm | None = None  # norm before the blocks
    levels: Sequence[Level] = ()  # levels of FpnNeck
    scaled: Sequence[ScaledLevel] = ()  # levels of ScaledNeck
    neck: Sequence[tuple[Conv, Norm | None]] = ()  # layers of ViTDetNeck
    scalp: int  # number of coarsest levels to drop
    interpolation: str = "nearest"  # mode of upsampling in FpnNeck


class TransformerPlan(EncoderPlan):
    """Base class of plans of encoders with transformer blocks."""

    def __init__(self, encoder: ImageEncoder) -> None:
        self._trunk, self._position = cast(BlockTrunk, encoder.trunk), TensorCache[Tensor]()
        self._positions = tuple(self._trunk.parameters(recurse=False))
        self.patches, self.scalp = conv_of(self._trunk.patch_embed.proj), encoder.scalp
        ends = self._trunk.stage_ends if self._trunk.return_interm_layers else self._trunk.stage_ends[-1:]
        self.blocks = [block_of(block, i in ends) for i, block in enumerate(self._trunk.blocks)]

    def position(self, H: int, W: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Computes the position embedding ``(1, H, W, C)`` of the patches in fp32. Rounds the result to ``dtype``."""

        def compute() -> Tensor:
            return self._trunk._get_pos_embed((H, W), torch.float32).contiguous().to(dtype)

        return self._position((H, W, dtype), self._positions, compute)


class ImagePlan(TransformerPlan):
    """Plan of Hiera and its neck."""

    def __init__(self, encoder: ImageEncoder, heads: Mapping[int, nn.Conv2d]) -> None:
        super().__init__(encoder)
        neck = cast(FpnNeck, encoder.neck)
        self.levels, self.interpolation = levels_of(neck, heads), neck.fpn_interp_model


def block_of(block: MultiScaleBlock, ends_stage: bool) -> Block:
    """Reads the weights of a block of Hiera or of a plain transformer."""
    residual = linear_of(block.proj) if block.dim != block.dim_out else None
    return Block(
        block.window_size,
        block.attn.num_heads,
        block.q_stride,
        ends_stage,
        norm_of(block.norm1),
        linear_of(block.attn.qkv),
        linear_of(block.attn.proj),
        residual,
        norm_of(block.norm2),
        mlp_of(block.mlp),
        block.attn.rotations,
    )


def levels_of(neck: FpnNeck, heads: Mapping[int, nn.Conv2d]) -> list[Level]:
    """Reads the weights of the neck's levels, finest first."""
    levels, top_down, count = [], neck.fpn_top_down_levels, len(neck.convs)
    for i in range(count):
        adds_coarser = i in top_down and i < count - 1
        is_added = i > 0 and i - 1 in top_down  # True if this level is added to the next finer level
        head = linear_of(heads[i]) if i in heads else None
        lateral, is_direct = neck.convs[count - 1 - i].conv, head is not None and not adds_coarser and not is_added
        levels.append(Level(linear_of(lateral), adds_coarser, head, is_direct))
    return levels


def composed(inner: Linear | Conv, outer: Linear) -> Linear:
    """Composes a layer and the following 1x1 convolution to one linear layer. Multiplies the weights in fp32."""
    weight, dtype = outer.weight.flatten(1).float(), inner.weight.dtype
    bias = weight @ cast(Tensor, inner.bias).float() + outer.bias.float()
    return Linear((weight @ inner.weight.flatten(1).float()).to(dtype), bias.to(dtype))


def composed_scaled(level: ScaledLevel) -> ScaledLevel:
    """Composes layers of a level. The last doubling is composed with ``point``, and ``conv`` with the head."""
    doublings, point, conv, head = level
    if doublings:
        *others, last = doublings
        weight, bias = composed(Linear(last.weight.transpose(0, 1), last.bias), point)
        point = by_blocks(Linear(weight.unflatten(1, (-1, 2, 2)).transpose(0, 1), bias))
        doublings = tuple(map(by_blocks, others))
    else:
        point = Linear(point.weight.flatten(1).clone(), point.bias)  # copy, because `Constants` may write to the weight
    if head is not None:
        weight, bias = composed(conv, head)
        conv = conv._replace(weight=weight.unflatten(1, conv.weight.shape[1:]), bias=bias)
    return ScaledLevel(doublings, point, conv, None)


def linear_of(layer: Any) -> Linear:
    """Reads the weights of a linear layer or convolution. The weight of a convolution keeps its shape."""
    return Linear(layer.weight, layer.bias)


def norm_of(layer: Any) -> Norm:
    """Reads the weights of a layer norm."""
    return Norm(layer.weight, layer.bias, layer.eps)


def conv_of(layer: Any) -> Conv:
    """Reads the weights and settings of a convolution."""
    return Conv(layer.weight, layer.bias, layer.stride, layer.padding, layer.groups)


def mlp_of(layers: Any) -> tuple[Linear, ...]:
    """Reads the layers of an :class:`~sam2fast.modeling.layers.MLP`, or a single linear layer."""
    return tuple(map(linear_of, getattr(layers, "layers", (layers,))))


class Projections(NamedTuple):
    """Linear layers and number of heads of an attention."""

    heads: int
    q: Linear
    k: Linear
    v: Linear
    out: Linear


class TwoWayLayer(NamedTuple):
    """Weights of a layer of the mask decoder's transformer."""

    is_first: bool  # if True, self-attention of the tokens has no positions and no residual
    self_attn: Projections
    norm1: Norm
    to_image: Projections  # attention of tokens to the image
    norm2: Norm
    mlp: tuple[Linear, ...]
    norm3: Norm
    to_tokens: Projections  # attention of the image to tokens
    norm4: Norm


class Derived(NamedTuple):
    """Position encoding of the image, and the two transposed convolutions as linear layers that output 2x2 blocks."""

    position: Tensor  # (P, C) fp32, position encoding of the image
    weight1: Tensor  # (C, C)
    bias1: Tensor  # (C)
    weight2: Tensor  # (C/2, C/4)
    bias2: Tensor  # (C/2)


class MaskPlan(PlanOfPart):
    """Plan of the prompt encoder, the mask decoder, and the layers that compute object pointers."""

    def __init__(
        self, encoder: PromptEncoder, decoder: MaskDecoder, pointer: nn.Module, mask_downsample: nn.Module | None
    ) -> None:
        self.size, self.input_size = encoder.image_embedding_size, encoder.input_image_size  # (H, W) each
        self.label_embeddings = _tables(encoder.not_a_point_embed, *encoder.point_embeddings)  # for labels -1 to 3
        self.no_mask = encoder.no_mask_embed.weight
        self.matrix = encoder.pe_layer.positional_encoding_gaussian_matrix
        conv1, norm1, _, conv2, norm2, _, last = encoder.mask_downscaling
        self.downscaling = [(conv_of(conv1), norm_of(norm1)), (conv_of(conv2), norm_of(norm2))]
        self.downscaled = conv_of(last)

        self.has_score, self.count = decoder.pred_obj_scores, decoder.num_mask_tokens
        scores = [decoder.obj_score_token] if self.has_score else []
        self.tokens = _tables(*scores, decoder.iou_token, decoder.mask_tokens)
        transformer = decoder.transformer
        self.layers = list(map(_two_way, transformer.layers))
        self.final = projections_of(transformer.final_attn_token_to_image)
        self.final_norm = norm_of(transformer.norm_final_attn)
        first, norm, _, second, _ = decoder.output_upscaling
        self._transposed, self.up_norm = (linear_of(first), linear_of(second)), norm_of(norm)
        self.networks = [mlp_of(network) for network in decoder.output_hypernetworks_mlps]
        self.iou, self.has_sigmoid = mlp_of(decoder.iou_prediction_head), decoder.iou_prediction_head.sigmoid_output
        self.score = mlp_of(decoder.pred_obj_score_head) if self.has_score else None
        self.is_dynamic = decoder.dynamic_multimask_via_stability
        self.delta = decoder.dynamic_multimask_stability_delta
        self.threshold = decoder.dynamic_multimask_stability_thresh
        self.pointers_of_three = decoder.use_multimask_token_for_obj_ptr
        self.reads_high_res = decoder.use_high_res_features
        self._pe_layer, self._derived = encoder.pe_layer, TensorCache[Derived]()
        self.started = TensorCache[Any]()  # results of the first self-attention in `static`, for prompts without points
        self.lowest = TensorCache[Tensor]()  # mask logit of absent objects
        self.pointer = () if isinstance(pointer, nn.Identity) else mlp_of(pointer)  # empty if mask tokens are pointers
        # Converts input masks to mask prompts. The mask decoder predicts object pointers from these prompts.
        self.mask_downsample = None if mask_downsample is None else conv_of(mask_downsample)

    def derived(self) -> Derived:
        """Returns tensors that only depend on weights."""
        encode, (first, second) = self._pe_layer, self._transposed

        def compute() -> Derived:
            return Derived(encode(self.size).flatten(1).t(), *by_blocks(first), *by_blocks(second))

        return self._derived(None, (self.matrix, *first, *second), compute)


def plan_masks(model: Any) -> MaskPlan | None:
    """Returns the plan of unmodified modules that predict objects, or None if plans do not support the layers."""
    encoder, decoder, pointer = model.sam_prompt_encoder, model.sam_mask_decoder, model.obj_ptr_proj
    if not (type(encoder) is PromptEncoder and type(decoder) is MaskDecoder):
        return None
    if type(pointer) not in (MLP, nn.Linear, nn.Identity):
        return None
    transformer, up, down = decoder.transformer, decoder.output_upscaling, encoder.mask_downscaling
    if type(transformer) is not TwoWayTransformer or not all(map(is_gelu, (up[2], up[4], down[2], down[5]))):
        return None
    if not all(layer.skip_first_layer_pe == (i == 0) for i, layer in enumerate(transformer.layers)):
        return None
    networks: list[Any] = [layer.mlp for layer in transformer.layers] + [*decoder.output_hypernetworks_mlps]
    if decoder.pred_obj_scores and isinstance(decoder.pred_obj_score_head, MLP):
        networks.append(decoder.pred_obj_score_head)
    networks += [pointer] if type(pointer) is MLP else []
    if any(network.sigmoid_output for network in networks) or not have_default_settings(encoder, decoder, pointer):
        return None
    if not all(is_relu(network.act) for network in (*networks, decoder.iou_prediction_head)):
        return None
    downsample = model.mask_downsample if model.use_obj_ptrs_in_encoder else None
    is_supported = downsample is None or type(downsample) is nn.Conv2d and has_default_settings(downsample)
    return MaskPlan(encoder, decoder, pointer, downsample) if is_supported else None


def projections_of(layer: Any) -> Projections:
    """Reads the linear layers of an :class:`~sam2fast.modeling.attention.Attention`."""
    return Projections(layer.num_heads, *map(linear_of, (layer.q_proj, layer.k_proj, layer.v_proj, layer.out_proj)))


def _two_way(layer: Any) -> TwoWayLayer:
    return TwoWayLayer(
        layer.skip_first_layer_pe,
        projections_of(layer.self_attn),
        norm_of(layer.norm1),
        projections_of(layer.cross_attn_token_to_image),
        norm_of(layer.norm2),
        mlp_of(layer.mlp),
        norm_of(layer.norm3),
        projections_of(layer.cross_attn_image_to_token),
        norm_of(layer.norm4),
    )


def by_blocks(layer: Linear) -> Linear:
    """Converts a transposed 2x2 convolution of stride 2 to a linear layer that outputs the four pixels of a block."""
    return Linear(layer.weight.permute(2, 3, 1, 0).flatten(0, 2), layer.bias.repeat(4))


def _tables(*embeddings: Any) -> list[Tensor]:
    return [embedding.weight for embedding in embeddings]


Plan = TypeVar("Plan", bound=PlanOfPart)

# Heads of the mask decoder. Under autocast, the weights of the heads stay in fp32.
_IN_FLOAT32 = ("networks", "iou", "score")


def in_dtype(plan: Plan, dtype: torch.dtype) -> Plan:
    """Returns a copy of the plan with weights of linear layers and convolutions in ``dtype``, as under autocast."""
    cast_plan = copy(plan)
    cast_plan.dtype = dtype
    for name, value in vars(plan).items():
        if name not in _IN_FLOAT32:
            setattr(cast_plan, name, cast_layers(value, dtype))
    return cast_plan


def cast_layers(value: Any, dtype: torch.dtype) -> Any:
    """Casts the linear layers and convolutions in tuples and lists to ``dtype``."""
    if isinstance(value, Level) and (product := value.product):  # composes before the cast, to round only once
        value = value._replace(lateral=product, head=None, is_direct=False)
    if hasattr(value, "in_dtype"):
        return value.in_dtype(dtype)
    if isinstance(value, Norm) or not isinstance(value, tuple | list):
        return value
    items = [cast_layers(x, dtype) for x in value]
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


# ---- checks that plans support a layer: each setting is stored in the plan, or has the default value ----


def is_plain_fpn(neck: nn.Module, heads: Mapping[int, nn.Conv2d]) -> bool:
    """Returns True if the neck sums levels, and all convolutions of the neck and the heads are 1x1."""
    if type(neck) is not FpnNeck or neck.fuse_type != "sum":
        return False
    convolutions: list[Any] = [*(layers.conv for layers in neck.convs), *heads.values()]
    return all(map(is_pointwise, convolutions)) and have_default_settings(neck, *heads.values())


def is_pointwise(layer: nn.Module) -> bool:
    """Returns True if the module is a 1x1 convolution."""
    if type(layer) is not nn.Conv2d:
        return False
    return (layer.kernel_size, layer.stride, layer.padding, layer.groups) == ((1, 1), (1, 1), (0, 0), 1)


def is_standard(block: MultiScaleBlock) -> bool:
    """Returns True if the MLP uses exact GELU without sigmoid, and pooling has ``q_stride`` and fits the windows."""
    pool, stride = block.pool, block.q_stride
    if isinstance(pool, nn.MaxPool2d):
        settings = pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode
        if settings != (stride, stride, 0, 1, False) or not stride or block.window_size % stride[0]:
            return False
    return is_gelu(block.mlp.act) and not block.mlp.sigmoid_output and block.attn.q_pool is pool


def is_gelu(activation: Any) -> bool:
    """Returns True if the module is the exact GELU."""
    return type(activation) is nn.GELU and activation.approximate == "none"


def is_relu(activation: Any) -> bool:
    """Returns True if the activation is torch's ReLU function or module."""
    return activation is F.relu or type(activation) is nn.ReLU


def have_default_settings(*parts: nn.Module) -> bool:
    """Returns True if all layers in the modules have a bias and default settings."""
    types = nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.LayerNorm
    layers = [layer for part in parts for layer in part.modules()]
    have_biases = all(layer.bias is not None for layer in layers if isinstance(layer, types))
    return have_biases and all(map(has_default_settings, layers))


def has_default_settings(layer: nn.Module) -> bool:
    """Returns True if all settings of a layer that plans do not store have default values."""
    if isinstance(layer, MLP):  # by default, activations are only between layers
        return layer.num_layers == len(layer.layers)
    if isinstance(layer, nn.Conv2d):
        return layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    if isinstance(layer, nn.ConvTranspose2d):  # settings that `by_blocks` supports
        settings = layer.kernel_size, layer.stride, layer.padding, layer.output_padding, layer.groups
        return settings == ((2, 2), (2, 2), (0, 0), (0, 0), 1)
    return True
