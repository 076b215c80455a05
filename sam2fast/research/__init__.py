"""Research tools: features, attention maps, custom selections and custom ops; see docs/research.md."""

from typing import TYPE_CHECKING, Any

from sam2fast.deprecated import old_name
from sam2fast.kernels._custom_ops import register_op, unregister_op
from sam2fast.kernels._dispatch import backend
from sam2fast.modeling.mask_selection import MaskSelection
from sam2fast.modeling.memory_selection import MemoryRules, MemorySelection, Selection, select_memories
from sam2fast.research.attention_maps import AttentionMap, Column, attention_maps
from sam2fast.research.features import StageFeatures, stage_features
from sam2fast.research.overrides import override_op, reaching

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
    "override_op",
    "reaching",
    "register_op",
    "select_memories",
    "stage_features",
    "unregister_op",
]

if not TYPE_CHECKING:  # for type checkers, other names stay errors

    def __getattr__(name: str) -> Any:
        return old_name(__name__, name)
