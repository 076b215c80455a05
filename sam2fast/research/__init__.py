"""Hooks for research: features, attention maps, and choices and ops of one's own; see docs/research.md."""

from sam2fast.kernels._dispatch import backend
from sam2fast.kernels._own_ops import register_op, unregister_op
from sam2fast.modeling.mask_selection import MaskSelection
from sam2fast.research.attention_maps import AttentionMap, Column, attention_maps
from sam2fast.research.features import StageFeatures, stage_features
from sam2fast.research.ops import own_op
from sam2fast.research.reach import reaching
from sam2fast.tracking.own_selection import MemorySelection
from sam2fast.tracking.selection import MemoryRules, Selection, select_memories

__all__ = [
    "AttentionMap",
    "Column",
    "MaskSelection",
    "MemoryRules",
    "MemorySelection",
    "Selection",
    "StageFeatures",
    "attention_maps",
    "backend",
    "own_op",
    "reaching",
    "register_op",
    "select_memories",
    "stage_features",
    "unregister_op",
]
