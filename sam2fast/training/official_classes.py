"""Maps classes of official configurations to classes of sam2fast, and collects notes on the conversion."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam2fast.config import ConfigError

MAPPED, CHANGED, LEFT_OUT, NOT_SUPPORTED, TO_DO = "mapped", "changed", "left out", "not supported", "to do"
# Keys of configuration nodes that only Hydra reads.
_OF_HYDRA = ("_partial_", "_recursive_", "_convert_")
# Official modules whose classes have counterparts with the same names in `sam2fast.training`.
MODULES = frozenset(
    (
        "fvcore.common.param_scheduler",
        "training.dataset.transforms",
        "training.dataset.utils",
        "training.dataset.vos_dataset",
        "training.dataset.vos_raw_dataset",
        "training.dataset.vos_sampler",
        "training.loss_fns",
        "training.model.sam2",
        "training.optimizer",
    )
)
LOADER = "training.dataset.sam2_datasets.TorchTrainMixedDataset"
COLLATE = "training.utils.data_utils.collate_fn"
REPEATER = "training.dataset.utils.RepeatFactorWrapper"
CLIPS = "training.dataset.vos_dataset.VOSDataset"


@dataclass(frozen=True)
class Note:
    """Note on the conversion of one part of a configuration."""

    kind: str  # MAPPED, CHANGED, LEFT_OUT, NOT_SUPPORTED or TO_DO
    key: str  # key of the part in the official configuration
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.key}: {self.text}"


class Notes(list[Note]):
    """Notes on a conversion, in the order in which entries are converted."""

    def add(self, kind: str, key: str, text: str) -> None:
        self.append(Note(kind, key, text))


class Fields:
    """Entries of a configuration node. :meth:`close` adds notes on entries that are not used."""

    def __init__(self, node: Any, key: str, notes: Notes) -> None:
        if not isinstance(node, dict):
            raise ConfigError(f"{key} must be a mapping, got {node!r}")
        self._left = {name: value for name, value in node.items() if name not in _OF_HYDRA}
        self.key, self._notes = key, notes

    def take(self, name: str, default: Any = None) -> Any:
        """Removes the entry ``name`` of the node and returns the entry's value."""
        return self._left.pop(name, default)

    def keep(self, *names: str) -> dict[str, Any]:
        """Removes and returns entries of the node that have the same meaning in sam2fast."""
        return {name: self._left.pop(name) for name in names if name in self._left}

    def leave_out(self, why: str, *names: str) -> None:
        """Removes entries and adds notes that sam2fast does not use the entries. Empty entries get no note."""
        self._unless_empty(LEFT_OUT, why, names)

    def to_do(self, what: str, *names: str) -> None:
        """Removes entries and adds notes on settings that the user must make. Empty entries get no note."""
        self._unless_empty(TO_DO, what, names)

    def _unless_empty(self, kind: str, text: str, names: tuple[str, ...]) -> None:
        for name in names:
            if self._left.pop(name, None) not in (None, [], {}, False):
                self.note(kind, text, name)

    def note(self, kind: str, text: str, name: str = "") -> None:
        """Adds a note on the node, or on the node's entry ``name``."""
        self._notes.add(kind, f"{self.key}.{name}" if name else self.key, text)

    def close(self) -> None:
        """Adds a note for each entry of the node that has not been removed."""
        for name, value in self._left.items():
            if value is not None:
                self.note(NOT_SUPPORTED, "there is no such setting here; it has no effect", name)
        self._left = {}


class Classes:
    """Mapping of official classes in a configuration to sam2fast's classes.

    Args:
        targets: names of classes that a training configuration may have as ``_target_``.
        notes: list to which notes on the conversion are added.
    """

    def __init__(self, targets: Collection[str], notes: Notes) -> None:
        ours = (target for target in targets if target.startswith("sam2fast.training."))
        self._ours = {target.rpartition(".")[2]: target for target in ours}
        self._notes = notes

    def mapped(self, value: Any, key: str) -> Any:
        """Replaces targets in a node recursively. Unknown targets stay, and building a node with them fails."""
        if isinstance(value, dict):
            out = {name: self.mapped(child, f"{key}.{name}") for name, child in value.items()}
            return {**out, "_target_": self.target(str(out["_target_"]), key)} if "_target_" in out else out
        if isinstance(value, list):
            return [self.mapped(child, f"{key}.{i}") for i, child in enumerate(value)]
        if isinstance(value, str) and value.startswith("training/assets/") and not Path(value).exists():
            text = (
                f"{value} is a file of the official repository: give its path, or null for everything (in Meta's "
                f"files by dataset.{key.rpartition('.')[2]}=...)"
            )
            self._notes.add(TO_DO, key, text)
        return value

    def target(self, target: str, key: str) -> str:
        """Returns the counterpart of an official class, or the unknown class unchanged."""
        module, _, name = target.rpartition(".")
        if module in MODULES and name in self._ours:
            return self._ours[name]
        if target.startswith(("training.", "fvcore.")):
            self._notes.add(NOT_SUPPORTED, key, f"{target} has no counterpart here")
        elif not target.startswith(("sam2.", "sam2fast.", "torch.")):
            text = f"{target} is not a class of SAM 2: pass --allow-target {target.partition('.')[0]} to build it"
            self._notes.add(TO_DO, key, text)
        return target

    def loader(self, node: Any, key: str, seed: int) -> dict[str, Any]:
        """Converts a node that mixes data sets. Raises ``ConfigError`` if the node has another target."""
        fields = Fields(node, key, self._notes)
        target = fields.take("_target_")
        if target != LOADER:
            raise ConfigError(f"{key} is a {target}; only {LOADER} is known")
        datasets, sizes = fields.take("datasets", []), fields.take("batch_sizes", [])
        shares, collate = fields.take("dataset_prob"), fields.take("collate_fn") or {}
        if len(sizes) != len(datasets) or (shares is not None and len(shares) != len(datasets)):
            raise ConfigError(f"{key} has {len(datasets)} datasets, but not as many batch_sizes or dataset_prob")
        if collate.get("_target_") != COLLATE:
            fields.note(NOT_SUPPORTED, f"{collate.get('_target_')} is not called: batches are made here", "collate_fn")
        sources = [
            {
                "_target_": self._ours["ClipSource"],
                "dataset": self._dataset(dataset, f"{key}.datasets.{i}"),
                "batch_size": sizes[i],
                "weight": None if shares is None else shares[i],
                "key": collate.get("dict_key", "all"),
            }
            for i, dataset in enumerate(datasets)
        ]
        same = fields.keep("num_workers", "shuffle", "pin_memory", "drop_last", "phases_per_epoch")
        ours = fields.keep("batches_per_epoch", "max_bad_samples")
        fields.leave_out("workers are set up here", "worker_init_fn")
        fields.note(MAPPED, f"batches of {', '.join(map(str, sizes))} clips on each GPU, a number for each data set")
        fields.close()
        return {"datasets": sources, "seed": seed, **same, **ours}

    def _dataset(self, node: Any, key: str) -> Any:
        return self.mapped(self._counted_once(node, key, repeated=False), key)

    def _counted_once(self, node: Any, key: str, repeated: bool) -> Any:
        """Sets ``multiplier`` to 1 outside a ``RepeatFactorWrapper``, where the official trainer ignores it."""
        if isinstance(node, list):
            return [self._counted_once(child, f"{key}.{i}", repeated) for i, child in enumerate(node)]
        if not isinstance(node, dict):
            return node
        out, target = dict(node), node.get("_target_")
        repeated = repeated or target == REPEATER
        for name in ("dataset", "datasets"):
            if name in out:
                out[name] = self._counted_once(out[name], f"{key}.{name}", repeated)
        if target == CLIPS and not repeated and out.get("multiplier", 1) != 1:
            out["multiplier"] = 1
            text = "1, since in the official package it has no effect without a RepeatFactorWrapper"
            self._notes.add(CHANGED, f"{key}.multiplier", text)
        return out
