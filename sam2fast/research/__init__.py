"""Provides research tools: features, attention maps, custom memory selection and ops. See docs/research.md."""

from sam2fast.kernels._custom_ops import register_op, unregister_op
from sam2fast.kernels._dispatch import backend
from sam2fast.modeling.memory_selection import MemoryRules, Selection, select_memories
from sam2fast.research.attention_maps import AttentionMap, Column, attention_maps
from sam2fast.research.features import StageFeatures, stage_features
from sam2fast.research.overrides import override_op
from sam2fast.research.parts import planned_parts

__all__ = [
    "AttentionMap",
    "Column",
    "MemoryRules",
    "Selection",
    "StageFeatures",
    "attention_maps",
    "backend",
    "override_op",
    "planned_parts",
    "register_op",
    "select_memories",
    "stage_features",
    "unregister_op",
]
