"""Converts configurations of the official trainer to configurations of sam2fast, with a note on each part.

Each configuration entry that is dropped has a note.
"""

import math
from collections.abc import Callable, Collection, Sequence
from pathlib import PurePath
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sam2fast.config import ConfigError, finish_config
from sam2fast.training.official_classes import CHANGED, LEFT_OUT, MAPPED, NOT_SUPPORTED, TO_DO, Classes, Fields, Notes

TRAINER = "training.trainer.Trainer"
TENSORBOARD = "training.utils.logger.make_tensorboard_logger"
INITIALIZER = "training.utils.checkpoint_utils.load_state_dict_into_model"
READER = "training.utils.checkpoint_utils.load_checkpoint_and_apply_kernels"
LARGEST, LARGEST_POWER = 1_000_000, 1_000  # limits, because larger lists and powers could exhaust memory
# Resolvers of interpolations in official configurations, such as ${times:2,3}.
RESOLVERS: dict[str, Callable[..., Any]] = {
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "times": lambda *factors: math.prod(_number(x) for x in factors),
    "divide": lambda x, y: x / y,
    "pow": lambda x, y: _number(x, LARGEST) ** _number(y, LARGEST_POWER),
    "range": lambda x: list(range(_number(x, LARGEST))),
    "int": int,
    "ceil_int": math.ceil,
    "merge": lambda *parts: OmegaConf.merge(*parts),
}
SUBMITIT = {
    "partition": "--partition",
    "account": "--account",
    "qos": "--qos",
    "timeout_hour": "--timeout-hours",
    "cpus_per_task": "--cpus-per-task",
}


def is_official(config: DictConfig) -> bool:
    """Returns True if an unresolved configuration is a configuration of the official trainer."""
    plain: Any = OmegaConf.to_container(config, resolve=False)
    trainer = plain.get("trainer") or {}
    data = trainer.get("data") if isinstance(trainer, dict) else None
    nodes = (trainer, data.get("train") if isinstance(data, dict) else None)
    return any(isinstance(n, dict) and str(n.get("_target_")).startswith("training.") for n in nodes)


def from_official(
    config: DictConfig, name: str, overrides: Sequence[str], targets: Collection[str]
) -> tuple[DictConfig, Notes]:
    """Converts a configuration of the official trainer. Returns the resolved configuration of sam2fast and the notes.

    Args:
        config: unresolved official configuration, which is changed in place.
        name: name of the official configuration. Without ``launcher.experiment_log_dir``, results go to
            ``sam2_logs/<name>``.
        overrides: overrides of official keys, in the format of :func:`sam2fast.config.load_config`.
        targets: targets that a training configuration may have.

    Raises:
        ConfigError: If an override does not fit the configuration, or the configuration is inconsistent.
    """
    if OmegaConf.select(config, "launcher.experiment_log_dir") is None:
        stem = PurePath(name).name.removesuffix(".yaml")
        OmegaConf.update(config, "launcher.experiment_log_dir", f"sam2_logs/{stem}", force_add=True)
    new = {resolver: function for resolver, function in RESOLVERS.items() if not OmegaConf.has_resolver(resolver)}
    for resolver, function in new.items():  # registers resolvers temporarily, because OmegaConf's registry is global
        OmegaConf.register_new_resolver(resolver, function)
    try:
        plain: Any = OmegaConf.to_container(finish_config(config, name, overrides), resolve=True)
    finally:
        for resolver in new:
            OmegaConf.clear_resolver(resolver)
    translation = _Translation(targets)
    ours = {"trainer": translation.trainer(plain.pop("trainer"))}
    translation.surroundings(plain)
    return OmegaConf.create(ours), translation.notes


def _number(value: Any, largest: float = math.inf) -> Any:
    """Returns ``value`` if it is a number of magnitude up to ``largest``. Raises ``ValueError`` for other values."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > largest:
        raise ValueError(f"expected a number up to {largest:,}, got {str(value)[:60]}")
    return value


class _Translation:
    def __init__(self, targets: Collection[str]) -> None:
        self.notes = Notes()
        self._classes = Classes(targets, self.notes)

    def _fields(self, node: Any, key: str) -> Fields:
        return Fields(node, key, self.notes)

    def trainer(self, node: Any) -> dict[str, Any]:
        """Converts the configuration node ``trainer``."""
        fields = self._fields(node, "trainer")
        target = fields.take("_target_", TRAINER)
        out = fields.keep("mode", "max_epochs", "accelerator", "seed_value", "val_epoch_freq")
        fields.note(MAPPED, _as_they_are(out))
        if target != TRAINER:
            out["_target_"] = self._classes.target(target, "trainer")
        out.update(fields.keep("ema", "auxiliary"))  # settings that only sam2fast has, added by overrides
        parts = {
            "model": self._model,
            "optim": self._optim,
            "loss": self._loss,
            "distributed": self._distributed,
            "logging": self._logging,
            "checkpoint": self._checkpoint,
        }
        for name, translated in parts.items():
            if (part := fields.take(name)) is not None:
                out[name] = translated(part, f"trainer.{name}")
        out["data"] = self._data(fields.take("data", {}), "trainer.data", out.get("seed_value", 123))
        fields.leave_out("a validation measures J and F", "meters")
        fields.to_do("set them for the command: NAME=VALUE sam2fast train ...", "env_variables")
        fields.leave_out("torch's settings are not changed; see sam2fast --deterministic", "cuda")
        fields.to_do("write the changes into trainer.optim", "optim_overrides")
        fields.close()
        return out

    def _model(self, node: Any, key: str) -> dict[str, Any]:
        out: dict[str, Any] = self._classes.mapped(node, key)
        trunk = (out.get("image_encoder") or {}).get("trunk") or {}
        if trunk.pop("weights_path", None) is not None:
            text = "not loaded: trainer.checkpoint.initialize_from takes the weights of a whole model"
            self.notes.add(NOT_SUPPORTED, f"{key}.image_encoder.trunk.weights_path", text)
        self.notes.add(MAPPED, key, f"built from {out.get('_target_')}")
        return out

    def _data(self, node: Any, key: str, seed: int) -> dict[str, Any]:
        fields = self._fields(node, key)
        loaders = {name: loader for name, loader in fields.keep("train", "val").items() if loader is not None}
        out = {name: self._classes.loader(loader, f"{key}.{name}", seed) for name, loader in loaders.items()}
        if "val" in out:
            fields.note(CHANGED, "a validation gives J, F and J&F of the objects instead of losses", "val")
        fields.close()
        return out

    def _optim(self, node: Any, key: str) -> dict[str, Any]:
        fields = self._fields(node, key)
        out: dict[str, Any] = {}
        if (amp := fields.take("amp")) is not None:
            of_amp = self._fields(amp, f"{key}.amp")
            out["amp"] = {"amp_dtype": "float16", **of_amp.keep("enabled", "amp_dtype")}  # the official default
            of_amp.close()
        for name in ("optimizer", "gradient_clip", "param_group_modifiers", "options"):
            if (value := fields.take(name)) is not None:
                out[name] = self._classes.mapped(value, f"{key}.{name}")
        fields.note(MAPPED, _as_they_are(out))
        out.update(fields.keep("accumulate"))
        fields.leave_out("the gradients' norm is reported without it", "gradient_logger")
        fields.close()
        return out

    def _loss(self, node: Any, key: str) -> dict[str, Any]:
        losses = self._fields(node, key).keep(*node)
        self.notes.add(MAPPED, key, f"for the keys {', '.join(losses)}")
        return {name: self._classes.mapped(loss, f"{key}.{name}") for name, loss in losses.items()}

    def _distributed(self, node: Any, key: str) -> dict[str, Any]:
        fields = self._fields(node, key)
        out = fields.keep("backend", "comms_dtype", "find_unused_parameters", "timeout_mins")
        fields.note(MAPPED, _as_they_are(out))
        out.update(fields.keep("strategy"))
        fields.close()
        return out

    def _logging(self, node: Any, key: str) -> dict[str, Any]:
        fields = self._fields(node, key)
        out = fields.keep("log_dir", "log_freq")
        fields.note(MAPPED, _as_they_are(out))
        writer = fields.take("tensorboard_writer") or {}
        is_known = writer.get("_target_") == TENSORBOARD
        out["tensorboard"] = is_known and bool(writer.get("should_log", True))
        if is_known:
            fields.note(CHANGED, f"TensorBoard's files are in {out.get('log_dir')}/tensorboard", "tensorboard_writer")
        elif writer:
            text = f"{writer.get('_target_')} is not called; metrics.jsonl has all reported values"
            fields.note(NOT_SUPPORTED, text, "tensorboard_writer")
        out.update(fields.keep("tensorboard", "progress"))
        frequencies = ("log_scalar_frequency", "log_visual_frequency", "scalar_keys_to_log", "log_batch_stats")
        fields.leave_out("all values are reported every log_freq updates", *frequencies)
        fields.leave_out("warnings are shown, and reports are in files", "log_level_primary", "log_level_secondary")
        fields.close()
        return out

    def _checkpoint(self, node: Any, key: str) -> dict[str, Any]:
        fields = self._fields(node, key)
        out = fields.keep("save_dir", "save_freq", "save_list")
        fields.note(MAPPED, _as_they_are(out))
        if (initializer := fields.take("model_weight_initializer")) is not None:
            out.update(self._initial_weights(initializer, f"{key}.model_weight_initializer"))
        out.update(fields.keep("initialize_from", "missing_weights", "save_every_steps"))
        if (old := fields.take("resume_from")) is not None:
            text = f"not resumed; ++trainer.checkpoint.initialize_from={old} starts a new run from its weights"
            fields.note(NOT_SUPPORTED, text, "resume_from")
        fields.leave_out("best.pt has the weights of the best J&F", "save_best_meters")
        fields.leave_out("checkpoints have every parameter", "skip_saving_parameters", "initialize_after_preemption")
        fields.close()
        return out

    def _initial_weights(self, node: Any, key: str) -> dict[str, Any]:
        """Returns the settings ``initialize_from`` and ``missing_weights`` for an official initializer."""
        fields = self._fields(node, key)
        reader = self._fields(fields.take("state_dict", {}), f"{key}.state_dict")
        path = reader.take("checkpoint_path")
        if fields.take("_target_") != INITIALIZER or reader.take("_target_") != READER or path is None:
            raise ConfigError(
                f"{key}: only {INITIALIZER} of {READER} with a checkpoint_path is known; set it to null, and name the "
                "weights by ++trainer.checkpoint.initialize_from=FILE"
            )
        out = {"initialize_from": path}
        if fields.take("strict", True) is not True:
            out["missing_weights"] = "draw"
            text = "missing_weights=draw: missing weights stay randomly initialized; unexpected ones are an error"
            fields.note(CHANGED, text, "strict")
        partly = (
            "weights are not chosen by name: ++trainer.checkpoint.missing_weights=draw accepts a file that lacks some; "
            "a file with unexpected weights must be converted, see docs/checkpoints.md"
        )
        for name in ("ignore_missing_keys", "ignore_unexpected_keys", "checkpoint_kernels"):
            for part in (fields, reader):
                if part.take(name):
                    part.note(NOT_SUPPORTED, partly, name)
        if reader.take("ckpt_state_dict_keys", ["model"]) not in (["model"], []):
            reader.note(CHANGED, "weights are read from 'model' or the top level", "ckpt_state_dict_keys")
        reader.leave_out("weights are loaded to the model's device", "map_location")
        reader.close()
        fields.close()
        self.notes.add(MAPPED, key, f"trainer.checkpoint.initialize_from={path}")
        return out

    def surroundings(self, plain: dict[str, Any]) -> None:
        """Converts all configuration nodes except ``trainer``."""
        launcher = self._fields(plain.pop("launcher", None) or {}, "launcher")
        nodes, gpus = launcher.take("num_nodes", 1), launcher.take("gpus_per_node", 1)
        launcher.note(MAPPED, f"results go to {launcher.take('experiment_log_dir')}", "experiment_log_dir")
        if (nodes, gpus) != (1, 1):
            machines = "" if nodes == 1 else f" --num-nodes {nodes} --use-cluster 1"
            launcher.note(TO_DO, f"tell the command: sam2fast train --num-gpus {gpus}{machines}")
            launcher.note(TO_DO, f"or, on one GPU, ++trainer.optim.accumulate={nodes * gpus} for updates as large")
        launcher.close()
        submitit = self._fields(plain.pop("submitit", None) or {}, "submitit")
        settings = {name: value for name, value in submitit.keep(*SUBMITIT).items() if value is not None}
        options = {name: f"{SUBMITIT[name]} {value}" for name, value in settings.items()}
        submitit.leave_out("a free port is found at the start", "port_range")
        submitit.leave_out("jobs have the command's name", "name")
        if submitit.take("use_cluster"):
            submitit.note(TO_DO, f"tell the command: sam2fast train --use-cluster 1 {' '.join(options.values())}")
        else:
            for name, option in options.items():
                submitit.note(LEFT_OUT, f"the run is not for a cluster; with --use-cluster 1 it is {option}", name)
        submitit.close()
        if plain.pop("hydra", None) is not None:
            self.notes.add(LEFT_OUT, "hydra", "Hydra does not run here")
        if plain:
            self.notes.add(MAPPED, ", ".join(plain), "values to which the trainer refers are filled in there")


def _as_they_are(fields: dict[str, Any]) -> str:
    return f"{', '.join(fields)} as {'it is' if len(fields) == 1 else 'they are'}" if fields else "nothing is set"
