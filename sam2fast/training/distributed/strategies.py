"""How the processes of a run hold the model: each a whole copy, or each a part of every tensor."""

import inspect
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import Tensor, nn

from sam2fast.training.distributed.ranks import Ranks
from sam2fast.training.objective import Objective
from sam2fast.training.settings import AMP_DTYPES, DistributedConf


class Alone:
    """One process with the whole objective; the others below differ from it only in where tensors are.

    Args:
        objective: on its device. What learns is in it under the same names before and after.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        """The batch's losses; gradients of ``loss`` are means over the processes."""
        return self.objective(batch)

    def batch_of_several(self, is_last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward pass of one of the batches of an update; gradients travel with the last."""
        return nullcontext()

    def evaluating(self) -> AbstractContextManager[Any]:
        """Inside, processes may use the model differently often; without gradients."""
        return nullcontext()

    def local(self, tensor: Tensor) -> Tensor:
        """What this process has of a tensor."""
        return tensor

    def number(self, scalar: Tensor) -> float:
        """A scalar of all processes."""
        return float(scalar)

    def whole(self, tree: Any) -> Any:
        """What is in nested dictionaries and lists, with whole tensors.

        Every process asks at the same place; where tensors are divided, the first alone gets them, on the CPU, and the
        others get None for each.
        """
        return tree

    def placed(self, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Whole tensors as this process holds those of the same names."""
        return tensors

    def placed_state(self, state: dict[str, Any], groups: list[dict[str, Any]]) -> dict[str, Any]:
        """The state of an optimiser with these groups as this process holds it."""
        return state


class Replicas(Alone):
    """Torch's DistributedDataParallel: every process has the whole, and gradients are averaged."""

    def __init__(self, objective: Objective, conf: DistributedConf) -> None:
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook, fp16_compress_hook

        super().__init__(objective)
        # Buffers never change. The switch has had two names.
        names = inspect.signature(nn.parallel.DistributedDataParallel).parameters
        switch = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
        options: dict[str, Any] = {switch: False, "find_unused_parameters": conf.find_unused_parameters}
        # Without device_ids, which would copy the batch once more.
        self._replica = nn.parallel.DistributedDataParallel(objective, **options)
        if conf.comms_dtype is not None:
            hooks = {"bfloat16": bf16_compress_hook, "float16": fp16_compress_hook}
            self._replica.register_comm_hook(None, hooks[conf.comms_dtype])

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        return self._replica(batch)

    def batch_of_several(self, is_last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if is_last else self._replica.no_sync()


class Shards(Alone):
    """Torch's ``fully_shard``: every process has a part of each tensor, and of the optimiser's state for it.

    Blocks of the trunk and layers of memory attention are put together when they are used.

    Raises:
        ValueError: there is an auxiliary task, whose single numbers cannot be divided, or a cache of features.
    """

    def __init__(self, objective: Objective, ranks: Ranks, conf: DistributedConf) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

        if objective.auxiliary is not None:
            raise ValueError("strategy fsdp is for large models, trainer.auxiliary for small ones: use strategy=ddp")
        if objective.model.encoder_cache is not None:
            raise ValueError(
                "with trainer.model.encoder_cache processes use the encoder differently often, and strategy fsdp has "
                "them wait for each other there: use strategy=ddp, or leave the cache out"
            )
        super().__init__(objective)
        self._ranks = ranks
        reduce_dtype = None if conf.comms_dtype is None else AMP_DTYPES[conf.comms_dtype]
        # By itself torch would take the GPUs of a machine that has some.
        mesh = init_device_mesh(ranks.device.type, (ranks.world_size,))
        options: dict[str, Any] = {"mesh": mesh, "mp_policy": MixedPrecisionPolicy(reduce_dtype=reduce_dtype)}
        block: Any
        for block in objective.model.image_encoder.trunk.blocks:
            fully_shard(block, **options)
            whole = block.branches
            register_fsdp_forward_method(block, "branches")
            block.branches = partial(_branches, block, whole, block.branches)
        if objective.model.num_maskmem:
            for layer in objective.model.memory_attention.layers:
                fully_shard(layer, **options)
        self._root: Any = fully_shard(objective, **options)

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        with warnings.catch_warnings():
            # Blocks return views, and nothing changes them in place.
            warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)
            return super().__call__(batch)

    def batch_of_several(self, is_last: bool) -> AbstractContextManager[Any]:
        self._root.set_requires_gradient_sync(is_last)
        return nullcontext()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        from torch.distributed.fsdp import FSDPModule

        parts = [module for module in self.objective.modules() if isinstance(module, FSDPModule)]
        hooks = [(part._forward_pre_hooks, part._forward_hooks) for part in parts]
        for part in parts:
            part.unshard()
            # With all of it whole they have nothing to do, and would note each use for a backward pass to come.
            part._forward_pre_hooks, part._forward_hooks = OrderedDict(), OrderedDict()
        try:
            yield
        finally:
            for part, (before, after) in zip(parts, hooks, strict=True):
                part._forward_pre_hooks, part._forward_hooks = before, after
                part.reshard()

    def local(self, tensor: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor

        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    def number(self, scalar: Tensor) -> float:
        from torch.distributed.tensor import DTensor

        return float(scalar.full_tensor() if isinstance(scalar, DTensor) else scalar)

    def whole(self, tree: Any) -> Any:
        from sam2fast.training.distributed.pieces import divided_tensors, gathered, replaced

        wholes = iter(gathered(divided_tensors(tree), self._ranks))
        return replaced(tree, lambda tensor: next(wholes))

    def placed(self, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        from sam2fast.training.distributed.pieces import divided

        return {name: divided(value, like[name]) for name, value in tensors.items()}

    def placed_state(self, state: dict[str, Any], groups: list[dict[str, Any]]) -> dict[str, Any]:
        from sam2fast.training.distributed.pieces import divided

        parameters = [parameter for group in groups for parameter in group["params"]]
        placed = {
            number: {
                name: divided(value, parameters[number]) if _is_of(value, parameters[number]) else value
                for name, value in entry.items()
            }
            for number, entry in state["state"].items()
        }
        return {**state, "state": placed}


def wrap(objective: Objective, ranks: Ranks, conf: DistributedConf) -> Alone:
    """The objective as the processes share it; torch replaces its parameters where it is divided."""
    if not ranks.is_group:
        return Alone(objective)
    return Shards(objective, ranks, conf) if conf.strategy == "fsdp" else Replicas(objective, conf)


def _branches(block: nn.Module, whole: Callable[..., Any], divided: Callable[..., Any], *inputs: Any) -> Any:
    """A block's other way forward; within the first, and in evaluation, the block has been put together already."""
    from torch.distributed.tensor import DTensor

    return (divided if isinstance(next(block.parameters()), DTensor) else whole)(*inputs)


def _is_of(value: Any, parameter: Tensor) -> bool:
    """Whether an entry of the optimiser's state has a number for each of the parameter's."""
    return isinstance(value, Tensor) and value.shape == parameter.shape
