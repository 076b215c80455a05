"""Hiera, the hierarchical vision transformer of SAM 2's image encoder."""

from collections.abc import Sequence
from itertools import accumulate
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2fast.kernels._cpu import is_cpu_inference
from sam2fast.modeling.constants import TensorCache
from sam2fast.modeling.hiera_block import MultiScaleAttention, MultiScaleBlock  # noqa: F401  (the original's place)
from sam2fast.modeling.layers import convolve, is_gpu_inference
from sam2fast.modeling.standard import is_standard, standard

BIAS_EVERY = 4  # blocks, after which deferred biases are added to the map


@standard
class PatchEmbed(nn.Module):
    """Image ``(B, 3, H, W)`` to tokens ``(B, H / 4, W / 4, C)`` by a convolution, 7x7 of stride 4 in all models."""

    def __init__(
        self,
        kernel_size: tuple[int, ...] = (7, 7),
        stride: tuple[int, ...] = (4, 4),
        padding: tuple[int, ...] = (3, 3),
        in_chans: int = 3,
        embed_dim: int = 768,
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=kernel_size, stride=stride, padding=padding)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """An image ``(B, in_chans, H, W)`` to tokens ``(B, H', W', embed_dim)``."""
        return convolve(self.proj, x.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)


@standard
class BlockTrunk(nn.Module):
    """A trunk of blocks: patches, their positions, and the maps after some of the blocks."""

    patch_embed: PatchEmbed
    blocks: nn.ModuleList
    stage_ends: list[int]
    return_interm_layers = False  # whether the maps of all stages are results, or the last alone

    def __init__(self) -> None:
        super().__init__()
        self._biases: TensorCache[tuple[Tensor, ...]] = TensorCache()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps ``(B, C_i, H_i, W_i)`` of each stage for an image ``(B, 3, H, W)``, finest first."""
        x = self.patch_embed(x)
        if is_gpu_inference(x) and self._can_add_in_place(x.dtype):
            return self._add_in_place(x)
        # On the CPU a block computes the map in chunks that fit the cache. Elsewhere its last addition is fused with
        # the next block's norm.
        fuse, is_chunked = is_standard(self), is_cpu_inference(x)
        in_branches = fuse and not is_chunked
        delta: Tensor | None = None
        if in_branches and not torch.is_grad_enabled():
            delta = self._get_pos_embed((x.shape[1], x.shape[2]), x.dtype).expand_as(x)
        else:
            x = x + self._get_pos_embed((x.shape[1], x.shape[2]))
        outputs: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            if in_branches:
                x, normed = block.normed_input(x, delta)  # type: ignore[operator]
            if i - 1 in self.stage_ends and self.return_interm_layers:
                outputs.append(x.permute(0, 3, 1, 2))
            if in_branches:
                x, delta = block.branches(x, normed)  # type: ignore[operator]
            else:
                x = block.fused(x) if fuse else block(x)  # type: ignore[operator]
        outputs.append((x if delta is None else x + delta).permute(0, 3, 1, 2))
        return outputs

    @property
    def _blocks(self) -> Sequence[MultiScaleBlock]:
        return cast(Sequence[MultiScaleBlock], self.blocks)

    def _can_add_in_place(self, dtype: torch.dtype) -> bool:
        return is_standard(self) and all(block.can_add_in_place(dtype) for block in self._blocks)

    def _add_in_place(self, x: Tensor) -> list[Tensor]:
        """:meth:`forward` after the patches: matrix multiplications add the branches of all blocks to the map.

        ``addmm_`` adds a product to a map, but no bias with it. So biases are deferred: each norm adds their sum so far
        to what it reads, and the results contain them. In trained models biases and products cancel, so that a map
        without many of its biases is large and is rounded coarsely. So every fourth block adds them to the map.
        """
        outputs: list[Tensor] = []
        biases = self._deferred_biases()
        delta = self._get_pos_embed((x.shape[1], x.shape[2]), x.dtype).expand_as(x)
        for i, block in enumerate(self._blocks):
            if i == 0:
                x, normed = block.normed_input(x, delta)
                x = x.contiguous()
            elif i - 1 in self.stage_ends and self.return_interm_layers:
                whole, normed = block.normed_input(x, biases[2 * i - 1])
                outputs.append(whole.permute(0, 3, 1, 2))
            else:
                normed = block.norm_with_bias(x, biases[2 * i - 1])
            x = block.add_in_place(x, normed, biases[2 * i], adds_bias=i % BIAS_EVERY == BIAS_EVERY - 1)
        whole = torch.add(x, biases[-1], out=torch.empty_like(x))
        return [*outputs, whole.permute(0, 3, 1, 2)]

    def _deferred_biases(self) -> tuple[Tensor, ...]:
        """Sums ``(C)`` of the deferred biases after attention and after the MLP of each block, in fp32.

        A sum starts again where the map is projected, and after attention where it is added to the map.
        """
        biases = [cast(Tensor, x.bias) for b in self._blocks for x in (b.attn.proj, b.mlp.layers[-1])]

        def compute() -> tuple[Tensor, ...]:
            found: list[Tensor] = []
            for i, bias in enumerate(biases):
                is_projected = i % 2 == 0 and self._blocks[i // 2].proj is not None
                is_first = i == 0 or is_projected or i % (2 * BIAS_EVERY) == 2 * BIAS_EVERY - 1
                found.append(bias.float() if is_first else found[-1] + bias)
            return tuple(found)

        return self._biases((), tuple(biases), compute)

    def get_num_layers(self) -> int:
        """Number of blocks, for layer-wise learning rates."""
        return len(self.blocks)

    def get_layer_id(self, layer_name: str) -> int:
        """Depth of a parameter for layer-wise learning rates: 0 for the embeddings, i + 1 for block i."""
        if "rel_pos" in layer_name:
            return self.get_num_layers() + 1
        if "pos_embed" in layer_name or "patch_embed" in layer_name:
            return 0
        if "blocks" in layer_name:
            return int(layer_name.split("blocks")[1].split(".")[1]) + 1
        return self.get_num_layers() + 1

    def _get_pos_embed(self, hw: tuple[int, int], dtype: torch.dtype | None = None) -> Tensor:
        """What is added to the map of patches: ``(1, H, W, C)``, fp32 if there is no ``dtype``."""
        raise NotImplementedError


@standard
class Hiera(BlockTrunk):
    """Four stages of windowed and a few global blocks.

    Source: ``sam2.modeling.backbones.hieradet.Hiera``; https://arxiv.org/abs/2306.00989, with the window position
    embedding of https://arxiv.org/abs/2311.05613.
    """

    def __init__(
        self,
        embed_dim: int = 96,
        num_heads: int = 1,
        drop_path_rate: float = 0.0,
        q_pool: int = 3,
        q_stride: Sequence[int] = (2, 2),
        stages: Sequence[int] = (2, 3, 16, 3),
        dim_mul: float = 2.0,
        head_mul: float = 2.0,
        window_pos_embed_bkg_spatial_size: Sequence[int] = (14, 14),
        window_spec: Sequence[int] = (8, 4, 14, 7),
        global_att_blocks: Sequence[int] | None = (12, 16, 20),
        return_interm_layers: bool = True,
    ) -> None:
        super().__init__()
        if len(stages) != len(window_spec):
            raise ValueError(f"{len(stages)} stages need as many windows, got window_spec={list(window_spec)}")
        if not 0 <= q_pool < len(stages):
            raise ValueError(f"q_pool must be between 0 and {len(stages) - 1}, got {q_pool}")
        depth = sum(stages)
        self.stage_ends = [end - 1 for end in accumulate(stages)]
        self.return_interm_layers = return_interm_layers
        stage_starts = [end + 1 for end in self.stage_ends[:-1]]
        pooling_blocks = stage_starts[:q_pool]

        self.patch_embed = PatchEmbed(embed_dim=embed_dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, embed_dim, *window_pos_embed_bkg_spatial_size))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, embed_dim, window_spec[0], window_spec[0]))
        self._position: TensorCache[Tensor] = TensorCache()

        drop_rates = torch.linspace(0, drop_path_rate, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList()
        dim, stage = embed_dim, 0
        for i in range(depth):
            # The first block of a stage attends in the previous stage's windows and pools inside them.
            window = 0 if i in (global_att_blocks or ()) else window_spec[stage]
            dim_out = dim
            if i in stage_starts:
                dim_out, num_heads = int(dim * dim_mul), int(num_heads * head_mul)
                stage += 1
            stride = (q_stride[0], q_stride[1]) if i in pooling_blocks else None
            self.blocks.append(
                MultiScaleBlock(dim, dim_out, num_heads, drop_path=drop_rates[i], q_stride=stride, window_size=window)
            )
            dim = dim_out
        ends = self.stage_ends[::-1] if return_interm_layers else self.stage_ends[-1:]
        self.channel_list = [self.blocks[i].dim_out for i in ends]

    def _get_pos_embed(self, hw: tuple[int, int], dtype: torch.dtype | None = None) -> Tensor:
        """``(1, H, W, C)``: a coarse map interpolated to the image plus one window's map, tiled."""
        H, W = hw

        def compute() -> Tensor:
            window = self.pos_embed_window.float()
            whole = F.interpolate(self.pos_embed.float(), size=(H, W), mode="bicubic")
            w = window.shape[-1]
            tiled = whole.unflatten(3, (-1, w)).unflatten(2, (-1, w)) + window[:, :, None, :, None]
            return tiled.flatten(4, 5).flatten(2, 3).permute(0, 2, 3, 1).contiguous().to(dtype or whole.dtype)

        return self._position((H, W, dtype), (self.pos_embed, self.pos_embed_window), compute)
