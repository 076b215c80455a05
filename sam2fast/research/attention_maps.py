"""Collects attention maps (softmax weights) of memory attention."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sam2fast.compat.video_state import VideoState
from sam2fast.engine import engine_for
from sam2fast.kernels.memory_attention import AttendedMemory, memory_attention_reference
from sam2fast.modeling.attention import RoPEAttention
from sam2fast.modeling.compiled import CompiledMethod
from sam2fast.modeling.memory_attention import MemoryAttentionLayer
from sam2fast.modeling.memory_selection import Selection
from sam2fast.tracking.session import TrackedObject

if TYPE_CHECKING:
    from sam2fast.sam2_video_predictor import SAM2VideoPredictor

# Default limit of the total size of attention maps: 256 MiB.
MAX_BYTES = 2**28


class Column(NamedTuple):
    """Describes a column of an attention map: a memory that is attended to."""

    kind: str  # "conditioning" or "tracked" for a spatial memory, "pointer" for an object pointer
    frame: int  # frame of the memory
    distance: int  # current frame minus the memory's frame; negative for memories of later frames
    tokens: slice  # tokens of the memory among all attended tokens


class AttentionMap(NamedTuple):
    """Stores attention weights of one head of a layer, for an object on a frame."""

    frame: int
    obj_id: Any
    layer: int
    head: int
    queries: Tensor  # (Q, 2) int64: row and column on the feature map
    columns: list[Column]
    weights: Tensor  # fp32 on the CPU: (Q, columns), or (Q, tokens) with per_token; each row sums to one
    per_token: bool

    def shares(self) -> list[float]:
        """Returns each column's mean weight over all queries. The means sum to one."""
        means = self.weights.mean(dim=0)
        return [float(means[c.tokens].sum()) for c in self.columns] if self.per_token else means.tolist()


@contextmanager
def attention_maps(
    predictor: "SAM2VideoPredictor",
    *,
    layers: Collection[int] | None = None,
    frames: Collection[int] | None = None,
    obj_ids: Collection[Any] | None = None,
    head: int = 0,
    queries: Sequence[tuple[int, int]] | None = None,
    per_token: bool = False,
    max_bytes: int = MAX_BYTES,
) -> Iterator[list[AttentionMap]]:
    """Context manager that collects maps of cross-attention to the memory, for each tracked or corrected frame.

    ::

        with attention_maps(predictor, layers=[3], frames=[8]) as maps:
            for frame, ids, logits in predictor.propagate_in_video(state):
                ...

    Inside the block, the predictor uses neither CUDA graphs nor compiled memory attention. On the CPU, masks are
    bitwise equal to masks of the eager predictor. Not thread-safe.

    Args:
        predictor: Predictor for videos or streams.
        layers, frames, obj_ids: Layers, frames and objects to collect maps of. If None, all.
        head: Head of each layer. Published models have one head.
        queries: Positions (row, column) on the feature map. If None, all. A position stands for 16 x 16 input pixels.
        per_token: If True, stores the weight of each memory token instead of the sum over each memory. At 1024x1024
            with seven memories, the map of all queries has 4096 x 28,736 weights (471 MB).
        max_bytes: Maximum total size of all maps.

    Yields:
        List of maps, which grows while frames are tracked.

    Raises:
        ValueError: If a layer, head or position does not exist, or the model attends to means of tokens. While
            tracking, also if maps would exceed ``max_bytes``. The failed call changes nothing.
        RuntimeError: If another block already collects maps of this predictor. While tracking, also if a module of
            memory attention is hooked, patched, replaced, or in training mode.
    """
    recording = _Recording(predictor, layers, frames, obj_ids, head, queries, per_token, max_bytes)
    if predictor.selection_watch is not None:
        raise RuntimeError("another block already collects attention maps of this predictor; leave that block first")
    memory_attention, fast = predictor.memory_attention, predictor.fast
    with ExitStack() as restored:
        predictor.selection_watch = recording.begin_step
        restored.callback(setattr, predictor, "selection_watch", None)
        predictor.fast = False
        restored.callback(setattr, predictor, "fast", fast)
        compiled = vars(memory_attention).get("forward")
        if isinstance(compiled, CompiledMethod):
            del memory_attention.forward
            restored.callback(setattr, memory_attention, "forward", compiled)
        engine = engine_for(predictor)
        engine.attend_hook = recording.hook
        restored.callback(setattr, engine, "attend_hook", None)
        yield recording.maps


# Id for objects that are not part of the session, for example during warm-up.
_NO_ID = object()


class _Step(NamedTuple):
    ids: list[Any]
    objects: Sequence[TrackedObject]
    frame: int
    selections: Sequence[Selection]


class _Recording:
    """Stores the arguments of :func:`attention_maps`, and the maps collected so far."""

    def __init__(
        self,
        predictor: "SAM2VideoPredictor",
        layers: Collection[int] | None,
        frames: Collection[int] | None,
        obj_ids: Collection[Any] | None,
        head: int,
        queries: Sequence[tuple[int, int]] | None,
        per_token: bool,
        max_bytes: int,
    ) -> None:
        modules = cast(list[MemoryAttentionLayer], list(predictor.memory_attention.layers))
        attentions = [cast(RoPEAttention, module.cross_attn_image) for module in modules]
        if any(attention.pooling for attention in attentions):
            raise ValueError("attention maps need attention to tokens, but this model attends to means of tokens")
        self.maps: list[AttentionMap] = []
        self._depth = len(modules)
        self._layers = range(len(modules)) if layers is None else layers
        self._frames, self._obj_ids, self._head = frames, obj_ids, head
        self._per_token, self._max_bytes, self._bytes = per_token, max_bytes, 0
        self._step: _Step | None = None
        if unknown := [layer for layer in self._layers if not 0 <= layer < len(modules)]:
            raise ValueError(f"memory attention has no layer {unknown[0]}; expected 0 to {len(modules) - 1}")
        if not 0 <= head < attentions[0].num_heads:
            raise ValueError(f"there is no head {head}; expected 0 to {attentions[0].num_heads - 1}")
        side = predictor.sam_image_embedding_size
        positions = [(y, x) for y in range(side) for x in range(side)] if queries is None else list(queries)
        if outside := [p for p in positions if not (0 <= p[0] < side and 0 <= p[1] < side)]:
            raise ValueError(f"{outside[0]} is not a (row, column) of the {side} x {side} feature map")
        self._queries = torch.tensor(positions, dtype=torch.int64).reshape(-1, 2)
        self._positions = (self._queries * torch.tensor([side, 1])).sum(dim=1).to(predictor.device)

    def begin_step(
        self,
        state: VideoState,
        objects: Sequence[TrackedObject],
        frame: int,
        reverse: bool,
        selections: Sequence[Selection],
    ) -> None:
        ids = {id(tracked): obj_id for obj_id, tracked in state.objects.items()}
        self._step = _Step([ids.get(id(o), _NO_ID) for o in objects], objects, frame, selections)

    def hook(self, layer: int, query: Tensor, memory: AttendedMemory, *rest: Tensor | None) -> None:
        step = self._step
        if layer == self._depth - 1:
            self._step = None
        if step is None or layer not in self._layers or not _is_among(step.frame, self._frames):
            return
        for b, obj_id in enumerate(step.ids):
            if obj_id is not _NO_ID and _is_among(obj_id, self._obj_ids):
                self.maps.append(self._map(step, b, layer, query, memory, rest))

    def _map(
        self,
        step: _Step,
        b: int,
        layer: int,
        query: Tensor,
        memory: AttendedMemory,
        rest: tuple[Tensor | None, ...],
    ) -> AttentionMap:
        operands = attention_operands(b, query, memory, *rest)
        attended_tokens = operands.offset.isfinite().nonzero()[:, 0]
        columns = _columns(step, b, memory, int(memory.pointer_valid[b].sum()))
        assert columns[-1].tokens.stop == len(attended_tokens) if columns else not len(attended_tokens)
        Q, width = len(self._queries), len(attended_tokens) if self._per_token else len(columns)
        self._bytes += 4 * Q * width
        if self._bytes > self._max_bytes:
            raise ValueError(
                f"with {Q} x {width} weights of layer {layer} on frame {step.frame}, the maps would take "
                f"{self._bytes:,} bytes, more than max_bytes={self._max_bytes:,}; select queries, layers, frames or "
                "obj_ids, set per_token=False, or raise max_bytes"
            )
        # Maps are normal tensors, even if created in inference mode.
        with torch.inference_mode(False):
            weights = torch.empty(Q, width)
        start = 0
        for block in weights_by_block(operands, self._head, self._positions):
            block = block[:, attended_tokens]
            if not self._per_token:
                parts = [block[:, column.tokens].sum(dim=1) for column in columns]
                block = torch.stack(parts, dim=1) if parts else block
            weights[start : start + len(block)] = block.cpu()
            start += len(block)
        return AttentionMap(
            step.frame, step.ids[b], layer, self._head, self._queries, columns, weights, self._per_token
        )


def _is_among(value: Any, selected: Collection[Any] | None) -> bool:
    return selected is None or value in selected


def _columns(step: _Step, b: int, memory: AttendedMemory, pointer_tokens: int) -> list[Column]:
    """Returns the memories of object ``b``, in the order of keys in the reference implementation."""
    conditioning, (memories, pointers) = step.objects[b].conditioning, step.selections[b]
    lengths = [memory.pages.shape[1]] * int((memory.page_table[b] >= 0).sum())
    lengths += [pointer_tokens // len(pointers)] * len(pointers) if pointers else []
    kinds = ["conditioning" if t in conditioning else "tracked" for t, _ in memories] + ["pointer"] * len(pointers)
    columns, start = [], 0
    for (t, _), kind, length in zip([*memories, *pointers], kinds, lengths, strict=True):
        columns.append(Column(kind, t, step.frame - t, slice(start, start + length)))
        start += length
    return columns


# Number of queries per block of weights.
BLOCK = 256


class Operands(NamedTuple):
    """Stores the arguments of torch's attention in the reference implementation, for one object."""

    query: Tensor  # (heads, N, d), rotated
    key: Tensor  # (heads, M, d): rotated keys of each page, then keys of pointers
    value: Tensor  # (heads, M, m)
    offset: Tensor  # (M,) fp32, offsets of scores; -inf for tokens that are not attended to


class _CaptureOperands(TorchFunctionMode):
    """Captures the operands of torch's attention instead of computing attention."""

    def __init__(self) -> None:
        super().__init__()
        self.operands: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        query, key, value = args
        self.operands = query, key, value, kwargs["attn_mask"]
        return query.new_zeros(*query.shape[:-1], value.shape[-1])


def attention_operands(b: int, query: Tensor, memory: AttendedMemory, *weights_and_tables: Tensor | None) -> Operands:
    """Returns the reference implementation's operands for object ``b``, from arguments of :func:`memory_attention`."""
    one = slice(b, b + 1)
    with _CaptureOperands() as caught:
        memory_attention_reference(query if len(query) == 1 else query[one], memory.of(one), *weights_and_tables)
    assert caught.operands is not None
    query, key, value, mask = (x[0] for x in caught.operands)
    mask = mask[0, 0]
    offset = torch.where(mask, 0.0, -torch.inf) if mask.dtype == torch.bool else mask.float()
    return Operands(query, key, value, offset)


def weights_by_block(operands: Operands, head: int, queries: Tensor) -> Iterator[Tensor]:
    """Yields weights ``(n, M)`` fp32 of blocks of queries. Rows sum to one. Weights of unattended tokens are 0.

    Args:
        queries: Positions ``(Q,)`` int64 on the feature map.
    """
    key, scale = operands.key[head].float(), operands.query.shape[-1] ** -0.5
    with torch.autocast(key.device.type, enabled=False):
        for block in queries.split(BLOCK):
            scores = operands.query[head, block].float() * scale @ key.T + operands.offset
            yield scores.softmax(dim=-1)
