"""Compiles parts of a model with ``torch.compile``. See docs/compilation.md for the costs."""

from collections.abc import Callable, Collection
from typing import Any, TypeVar

from sam2fast.modeling.compiled import compile_method, restore_methods
from sam2fast.modeling.sam2_base import SAM2Base

_MODULES = {
    "image_encoder": "image_encoder",
    "memory_attention": "memory_attention",
    "mask_decoder": "sam_mask_decoder",
    "memory_encoder": "memory_encoder",
}
PARTS = tuple(_MODULES)

ModelT = TypeVar("ModelT", bound=SAM2Base)


def compile_model(
    model: ModelT,
    parts: Collection[str] = PARTS,
    mode: str | None = None,
    backend: str | Callable[..., Any] = "inductor",
) -> ModelT:
    """Compiles parts of a model in place, each as one graph per input shape.

    For inference, compiles the functions in :mod:`sam2fast.engine.static`, on every device. For training, direct calls
    and parts that a user changed, compiles the module's ``forward``. A part is compiled at the first call with a new
    input shape. Memory attention, decoder and memory encoder have one shape per number of objects. Up to 64 shapes of a
    part are compiled (older versions of torch: 8 shapes of all models). Other shapes run eagerly, with a logged note.

    Args:
        model: image model or video predictor.
        parts: some of ``image_encoder``, ``memory_attention``, ``mask_decoder``, ``memory_encoder``. Compiled parts are
            compiled again. Parts that are not named stay unchanged.
        mode: mode of ``torch.compile``. ``reduce-overhead`` and ``max-autotune`` use CUDA graphs. With these modes,
            results are copied out of the graphs' memory, and training is not possible.
        backend: backend of ``torch.compile``.

    Returns:
        The same model. ``state_dict``, ``copy.deepcopy`` and pickling work as before.

    Raises:
        TypeError: If ``model`` is not a model, such as an image predictor.
        ValueError: If a part is unknown. No part is compiled in this case.
        RuntimeError: If the mode or backend is unknown.
    """
    if not isinstance(model, SAM2Base):
        raise TypeError(f"a {type(model).__name__} cannot be compiled; for an image predictor, pass predictor.model")
    if isinstance(parts, str):
        parts = (parts,)
    unknown = [part for part in parts if part not in _MODULES]
    if unknown:
        raise ValueError(f"a model has no part {unknown[0]!r} to compile; the parts are {', '.join(PARTS)}")
    for part in parts:
        compile_method(getattr(model, _MODULES[part]), "forward", mode, backend)
    return model


def uncompile(model: ModelT) -> ModelT:
    """Undoes :func:`compile_model` and a configuration's ``compile_image_encoder`` in place."""
    restore_methods(model)
    return model
