"""The torch operators that inference calls on Apple GPUs (MPS) and CUDA, and the devices that torch has them for.

``python tests/support/device_operators.py`` writes the list that a test compares.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_cuda
import numpy as np
import pytest
import torch
import torchgen
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torchgen.gen import parse_native_yaml
from torchgen.model import DispatchKey, NativeFunction

from sam2fast.automatic_mask_generator import SAM2AutomaticMaskGenerator
from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.kernels import _op
from sam2fast.sam2_image_predictor import SAM2ImagePredictor

LIST = Path(__file__).parents[1] / "modeling/device_operators.json"
MPS = torch.device("mps", 0)  # with an index, for which torch does not ask the driver
COMPOSITE = "composite"  # made of other operators, for any device
DEVICES = (DispatchKey.CPU, DispatchKey.CUDA, DispatchKey.MPS)
# Models whose layers differ; tiny has those of nano.
CONFIGS = (
    "configs/nano/sam2fast_nano.yaml",
    "configs/edgetam/edgetam.yaml",
    "configs/efficienttam/efficienttam_ti_2.yaml",
)
aten = torch.ops.aten


class FakeMps(TorchDispatchMode):
    """Runs operations with a tensor on MPS on fake tensors, notes them in ``called``, and reads values as 0."""

    def __init__(self) -> None:
        super().__init__()
        self.called: set[str] = set()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._functions = {op.operator._opoverload: op.compute for op in _op.OPS.values()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        fakes = [x for x in tree_leaves((args, kwargs)) if isinstance(x, FakeTensor)]
        asked = kwargs.get("device") or next((x for x in args if isinstance(x, torch.device)), "cpu")
        if not fakes and torch.device(asked).type == "cpu":
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if func.namespace == "prim":  # asks for a tensor's device
            return func(*args, **kwargs)
        if func in self._functions:  # what it does on a device, rather than what it says to compilers
            with self:
                return self._functions[func](*args, **kwargs)
        if func is aten.scaled_dot_product_attention.default:  # composite; asks the device which implementation
            self.called.add("_scaled_dot_product_attention_math_for_mps")
            return args[0].new_empty(*args[0].shape[:-1], args[2].shape[-1])
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), fake_cuda.COMPOSITE):
            with self:
                return func._op_dk(fake_cuda.COMPOSITE, *args, **kwargs)
        self.called.add(func.name().removeprefix("aten::"))
        return self._on_device(func, args, kwargs)

    def _on_device(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func is aten._local_scalar_dense.default:
            with unset_fake_temporarily():
                return torch.zeros((), dtype=args[0].dtype).item()
        if func is aten.equal.default:
            return False
        if func is aten.nonzero.default:
            return args[0].new_empty(0, args[0].dim(), dtype=torch.int64)
        masks = [x for x in args[1] if x is not None and x.dtype == torch.bool] if func is aten.index.Tensor else []
        if masks:
            return args[0].new_empty(0, *args[0].shape[masks[0].dim() :])
        if func is aten.copy_.default and not isinstance(args[0], FakeTensor):
            with unset_fake_temporarily():
                return args[0].zero_()
        given, options = tree_map_only(Tensor, self._as_fake, (args, kwargs))
        return tree_map_only(FakeTensor, _on_cpu_with_values, func(*given, **options))

    def _as_fake(self, x: Tensor) -> Tensor:
        return x if isinstance(x, FakeTensor) else self.fake.from_tensor(x, static_shapes=True)


def _on_cpu_with_values(x: FakeTensor) -> Tensor:
    if x.device.type != "cpu":
        return x
    with unset_fake_temporarily():
        return torch.zeros(x.shape, dtype=x.dtype)


def _new_tensor(self: Tensor, data: Any) -> Tensor:
    return torch.tensor(data, dtype=self.dtype, device="cpu").to(self.device)


@contextlib.contextmanager
def fake_mps() -> Iterator[FakeMps]:
    """Inside the block there is a fake Apple GPU."""
    mode = FakeMps()
    with pytest.MonkeyPatch.context() as patch, mode.fake, mode:
        for name, method in (fake_cuda._METHODS | {"new_tensor": _new_tensor}).items():
            patch.setattr(FakeTensor, name, method, raising=False)
        yield mode


@torch.inference_mode()
def live(model: Any) -> None:
    """Segments an image by a click and by a box, finds all masks, and tracks two objects through a video."""
    frames = list(np.random.default_rng(0).integers(0, 256, (2, 90, 120, 3), dtype=np.uint8))
    predictor = SAM2ImagePredictor(model)
    predictor.set_image(frames[0])
    predictor.predict(np.array([[20, 40]]), np.array([1]))
    predictor.predict(box=np.array([10, 10, 60, 50]))
    SAM2AutomaticMaskGenerator(model, points_per_side=2).generate(frames[0])
    state = model.init_state(frames)
    model.add_new_points_or_box(state, 0, 1, [[20.0, 40.0]], [1])
    model.add_new_mask(state, 0, 2, np.ones((90, 120), bool))
    for _ in model.propagate_in_video(state, progress=False):
        pass
    model.add_new_points_or_box(state, 1, 1, [[30.0, 40.0]], [0])


def called_on_mps(config: str) -> set[str]:
    """The operators that a model calls on MPS, by name and overload."""
    with fake_mps() as mode:
        shallow = fake_cuda.SHALLOW if "nano" in config else []
        live(build_sam2_video_predictor(config, device="cpu", hydra_overrides_extra=shallow).to(MPS))
    return mode.called


class CalledOnCuda(fake_cuda.FakeCuda):
    """Also notes the operators of torch that are called on CUDA."""

    def __init__(self) -> None:
        super().__init__()
        self.called: set[str] = set()

    def _on_device(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        self.called.add(func.name().removeprefix("aten::"))
        return super()._on_device(func, args, kwargs, tensors)


def called_on_cuda(config: str) -> set[str]:
    """The operators that a model calls on CUDA, besides Triton kernels."""
    with fake_cuda.fake_cuda(CalledOnCuda()) as mode, pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeTensor, "new_tensor", _new_tensor, raising=False)
        live(fake_cuda.build(build_sam2_video_predictor, config))
    return mode.called


def dispatch_of() -> Callable[[str], list[str]]:
    """A function that says which devices the installed torch has an operator for, or that it is composite."""
    folder = Path(torchgen.__file__).parent / "packaged/ATen/native"
    parsed = parse_native_yaml(str(folder / "native_functions.yaml"), str(folder / "tags.yaml"))
    functions = {str(f.func.name): f for f in parsed.native_functions}

    def of(name: str) -> list[str]:
        f: NativeFunction = functions[name]
        if f.structured_delegate is not None:
            f = functions[str(f.structured_delegate)]
        if f.has_composite_kernel or f.has_composite_explicit_autograd_non_functional_kernel:
            return [COMPOSITE]
        return [key.name for key in DEVICES if parsed.backend_indices[key].has_kernel(f)]

    return of


def write(names: set[str]) -> None:
    of = dispatch_of()
    operators = {name: of(name) for name in sorted(names)}
    lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(devices)}" for name, devices in operators.items())
    version = torch.__version__.partition("+")[0]
    LIST.write_text(f'{{\n  "torch": "{version}",\n  "operators": {{\n{lines}\n  }}\n}}\n')


if __name__ == "__main__":
    write(set().union(*map(called_on_mps, CONFIGS), *map(called_on_cuda, CONFIGS)))
