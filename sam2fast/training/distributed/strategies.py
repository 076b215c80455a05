"""Strategies of distributed training: single process, DistributedDataParallel, or fully sharded (FSDP)."""

import inspect
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn

from sam2fast.training.distributed.ranks import Ranks
from sam2fast.training.objective import Objective
from sam2fast.training.settings import AMP_DTYPES, DistributedConf


class SingleProcess:
    """Runs the objective in one process. Base class of the strategies for several processes.

    Args:
        objective: objective, already on the device of this process. The strategy keeps the names of parameters.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        """Computes the losses of a batch. The backward pass of the entry ``loss`` averages gradients over processes."""
        return self.objective(batch)

    def accumulating(self, is_last: bool) -> AbstractContextManager[Any]:
        """Returns a context for a batch's forward and backward pass. Gradients are synchronized if ``is_last``."""
        return nullcontext()

    def evaluating(self) -> AbstractContextManager[Any]:
        """Returns a context for evaluation, in which processes may call the model different numbers of times."""
        return nullcontext()

    def gather(self, tree: Any) -> Any:
        """Replaces sharded tensors in nested dictionaries and lists by full tensors. Collective.

        Sharded tensors are gathered on the CPU of the first process. Other processes than the first get None for each
        sharded tensor.
        """
        return tree

    def shard(self, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Shards each full tensor like the tensor of the same name in ``like``."""
        return tensors

    def shard_optimizer_state(self, state: dict[str, Any], groups: list[dict[str, Any]]) -> dict[str, Any]:
        """Shards the full state of an optimizer like the parameters in ``groups``."""
        return state


class DDP(SingleProcess):
    """Strategy DistributedDataParallel: every process has all parameters, and gradients are averaged."""

    def __init__(self, objective: Objective, conf: DistributedConf) -> None:
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook, fp16_compress_hook

        super().__init__(objective)
        # Disables the synchronization of buffers, because buffers never change. The name of the option depends on
        # torch's version.
        names = inspect.signature(nn.parallel.DistributedDataParallel).parameters
        switch = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
        options: dict[str, Any] = {switch: False, "find_unused_parameters": conf.find_unused_parameters}
        # Does not pass device_ids, because DistributedDataParallel would copy the batch again.
        self._replica = nn.parallel.DistributedDataParallel(objective, **options)
        if conf.comms_dtype is not None:
            hooks = {"bfloat16": bf16_compress_hook, "float16": fp16_compress_hook}
            self._replica.register_comm_hook(None, hooks[conf.comms_dtype])

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        return self._replica(batch)

    def accumulating(self, is_last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if is_last else self._replica.no_sync()


class FSDP(SingleProcess):
    """Strategy ``fully_shard`` (FSDP2): every process has a shard of each parameter and of the optimizer state.

    Parameters of each trunk block and memory attention layer are gathered when the layer runs. Raises ``ValueError`` if
    the objective has an auxiliary module, because scalars cannot be sharded, or an encoder cache.
    """

    def __init__(self, objective: Objective, ranks: Ranks, conf: DistributedConf) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        if objective.auxiliary is not None:
            raise ValueError("strategy fsdp does not shard trainer.auxiliary: use strategy=ddp")
        if objective.model.encoder_cache is not None:
            raise ValueError(
                "strategy fsdp does not support trainer.model.encoder_cache, with which processes run the encoder "
                "different numbers of times: use strategy=ddp, or remove the cache"
            )
        super().__init__(objective)
        self._ranks = ranks
        reduce_dtype = None if conf.comms_dtype is None else AMP_DTYPES[conf.comms_dtype]
        # Names the device type of the mesh, because torch would otherwise use a GPU even for a run on the CPU.
        mesh = init_device_mesh(ranks.device.type, (ranks.world_size,))
        options: dict[str, Any] = {"mesh": mesh, "mp_policy": MixedPrecisionPolicy(reduce_dtype=reduce_dtype)}
        block: Any
        for block in objective.model.image_encoder.trunk.blocks:
            fully_shard(block, **options)
        if objective.model.num_maskmem:
            for layer in objective.model.memory_attention.layers:
                fully_shard(layer, **options)
        self._root: Any = fully_shard(objective, **options)

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        with warnings.catch_warnings():
            # Ignores torch's warning about in-place changes of outputs of FSDP blocks. The training code does not
            # change outputs of blocks in place.
            warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)
            return super().__call__(batch)

    def accumulating(self, is_last: bool) -> AbstractContextManager[Any]:
        self._root.set_requires_gradient_sync(is_last)
        return nullcontext()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        from torch.distributed.fsdp import FSDPModule

        parts = [module for module in self.objective.modules() if isinstance(module, FSDPModule)]
        hooks = [(part._forward_pre_hooks, part._forward_hooks) for part in parts]
        for part in parts:
            part.unshard()
            # Removes FSDP's hooks: parameters are already gathered, and hooks would record calls for a backward pass.
            part._forward_pre_hooks, part._forward_hooks = OrderedDict(), OrderedDict()
        try:
            yield
        finally:
            for part, (before, after) in zip(parts, hooks, strict=True):
                part._forward_pre_hooks, part._forward_hooks = before, after
                part.reshard()

    def gather(self, tree: Any) -> Any:
        def full(tensor: Any) -> Tensor | None:
            gathered = tensor.detach().full_tensor()
            return gathered.cpu() if self._ranks.is_main else None

        return _map_sharded(tree, full)

    def shard(self, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {name: _shard_like(value, like[name]) for name, value in tensors.items()}

    def shard_optimizer_state(self, state: dict[str, Any], groups: list[dict[str, Any]]) -> dict[str, Any]:
        parameters = [parameter for group in groups for parameter in group["params"]]

        def sharded(value: Any, parameter: Tensor) -> Any:
            fits = isinstance(value, Tensor) and value.shape == parameter.shape
            return _shard_like(value, parameter) if fits else value

        entries = state["state"].items()
        return {**state, "state": {i: {k: sharded(v, parameters[i]) for k, v in entry.items()} for i, entry in entries}}


def wrap(objective: Objective, ranks: Ranks, conf: DistributedConf) -> SingleProcess:
    """Returns the strategy that ``conf`` selects for the objective. FSDP shards the objective's parameters."""
    if not ranks.is_group:
        return SingleProcess(objective)
    return FSDP(objective, ranks, conf) if conf.strategy == "fsdp" else DDP(objective, conf)


def is_sharded(tensor: Any) -> bool:
    """Returns True for a DTensor. Does not import the class DTensor, because the import is slow."""
    return isinstance(tensor, Tensor) and hasattr(tensor, "placements")


def _map_sharded(tree: Any, by: Callable[[Any], Any]) -> Any:
    """Replaces each DTensor in nested dictionaries and lists by ``by(tensor)``, in order of occurrence."""
    if isinstance(tree, Mapping):
        return {key: _map_sharded(value, by) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_map_sharded(value, by) for value in tree)
    return by(tree) if is_sharded(tree) else tree


def _shard_like(value: Tensor, like: Any) -> Tensor:
    """Shards a full tensor like ``like``, if ``like`` is sharded. All processes must call this function."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements) if is_sharded(like) else value
