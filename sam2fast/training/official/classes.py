"""The original's classes in configurations, and ours in their place."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from sam2fast.config import ConfigError
from sam2fast.training.official.notes import CHANGED, MAPPED, NOT_SUPPORTED, TO_DO, Fields, Notes

# Modules whose classes have counterparts of the same names in `sam2fast.training`.
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


class Classes:
    """Puts our classes in the place of the original's.

    Args:
        targets: what a training configuration of ours may name.
        notes: are added to.
    """

    def __init__(self, targets: Collection[str], notes: Notes) -> None:
        ours = (target for target in targets if target.startswith("sam2fast.training."))
        self._ours = {target.rpartition(".")[2]: target for target in ours}
        self._notes = notes

    def mapped(self, value: Any, key: str) -> Any:
        """A node with all that is in it. What is not known stays as it is, and building it is refused."""
        if isinstance(value, dict):
            out = {name: self.mapped(child, f"{key}.{name}") for name, child in value.items()}
            return {**out, "_target_": self.target(str(out["_target_"]), key)} if "_target_" in out else out
        if isinstance(value, list):
            return [self.mapped(child, f"{key}.{i}") for i, child in enumerate(value)]
        if isinstance(value, str) and value.startswith("training/assets/") and not Path(value).exists():
            text = f"{value} is a file of the original's repository: give its path, or null for everything"
            self._notes.add(TO_DO, key, text)
        return value

    def target(self, target: str, key: str) -> str:
        """Our counterpart of a class."""
        module, _, name = target.rpartition(".")
        if module in MODULES and name in self._ours:
            return self._ours[name]
        if target.startswith(("training.", "fvcore.")):
            self._notes.add(NOT_SUPPORTED, key, f"{target} has no counterpart here")
        elif not target.startswith(("sam2.", "sam2fast.", "torch.")):
            text = f"{target} is no class of SAM 2: give --allow-target {target.partition('.')[0]} to have it built"
            self._notes.add(TO_DO, key, text)
        return target

    def loader(self, node: Any, key: str, seed: int) -> dict[str, Any]:
        """A mixture of data sets.

        Raises:
            ConfigError: it is none, or contradicts itself.
        """
        fields = Fields(node, key, self._notes)
        target = fields.take("_target_")
        if target != LOADER:
            raise ConfigError(f"{key} is a {target}; only {LOADER} is known")
        datasets, sizes = fields.take("datasets", []), fields.take("batch_sizes", [])
        shares, collate = fields.take("dataset_prob"), fields.take("collate_fn") or {}
        if len(sizes) != len(datasets) or (shares is not None and len(shares) != len(datasets)):
            raise ConfigError(f"{key} has {len(datasets)} datasets, and not as many batch_sizes or dataset_prob")
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
        """In the original a ``multiplier`` has an effect inside a ``RepeatFactorWrapper`` alone."""
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
            text = "1, since in the original it has no effect without a RepeatFactorWrapper"
            self._notes.add(CHANGED, f"{key}.multiplier", text)
        return out
