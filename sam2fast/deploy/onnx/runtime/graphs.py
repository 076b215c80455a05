"""Graphs of an exported model as functions of numpy arrays."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import onnxruntime

from sam2fast.deploy.onnx.runtime.arrays import resize
from sam2fast.deploy.onnx.runtime.manifest import GRAPHS, MANIFEST, OnnxManifest, OnnxModelError, read_manifest

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
}
# Logit of absent objects.
NO_OBJ_SCORE = np.float32(-1024.0)


class ObjectMasks(NamedTuple):
    """Results for B objects on one frame."""

    mask: np.ndarray  # (B, 1, h, w) logits
    iou: np.ndarray  # (B, 1) predicted IoU
    pointer: np.ndarray  # (B, C) object pointer
    score: np.ndarray  # (B, 1) logit of the object's presence
    state: np.ndarray | None = None  # (B, 8) fp64 motion after the frame, for the strategy together


# Function that runs a graph: takes the graph's name and a dictionary of inputs, returns the list of outputs.
RunGraph: TypeAlias = Callable[[str, dict[str, np.ndarray]], Sequence[np.ndarray]]


def load_model(
    folder: str | Path, provider: str = "cpu", session_options: onnxruntime.SessionOptions | None = None
) -> "OnnxModel":
    """Loads a folder of ``sam2fast export --format onnx`` with onnxruntime.

    Args:
        folder: folder with the graphs and their manifest.
        provider: execution provider of onnxruntime: ``cpu``, ``cuda``, ``tensorrt``, ``coreml`` or ``directml``.
            Operators that the provider does not support run on the CPU.
        session_options: options of onnxruntime, such as the number of threads.

    Raises:
        OnnxModelError: If the folder has no exported model, or the model is damaged.
        ValueError: If the provider is unknown, or the installed onnxruntime does not have the provider.
    """
    available = onnxruntime.get_available_providers()
    if PROVIDERS.get(provider) not in available:
        known = [name for name, full_name in PROVIDERS.items() if full_name in available]
        raise ValueError(f"no provider {provider!r} here; this onnxruntime has {', '.join(known)}")
    manifest = read_manifest(folder)
    names = list(dict.fromkeys([PROVIDERS[provider], PROVIDERS["cpu"]]))
    if session_options is None:
        session_options = onnxruntime.SessionOptions()
        session_options.log_severity_level = 3  # hides notes on constants that float16 cannot precompute
    sessions = {}
    for name in GRAPHS:
        file = Path(folder) / f"{name}.onnx"
        try:
            sessions[name] = onnxruntime.InferenceSession(file, session_options, providers=names)
        except Exception as error:  # onnxruntime's exception types share no other base class
            reason = str(error).splitlines()[0]
            raise OnnxModelError(f"{file} cannot be loaded by onnxruntime: {reason}") from error
    shapes = {node.name: node.shape for node in sessions["decoder"].get_inputs()}
    _check_constants(manifest, *shapes["features"][1:3])
    return OnnxModel(manifest, lambda name, inputs: sessions[name].run(None, inputs))


def with_padding_point(coords: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Appends the padding point used in the decoder's training to points ``(B, P, 2)`` and labels ``(B, P)``.

    Source: ``sam2.modeling.sam.prompt_encoder.PromptEncoder._embed_points``.
    """
    padding = np.zeros((len(coords), 1, 2), np.float32), np.full((len(labels), 1), -1, np.int32)
    return np.concatenate([coords, padding[0]], axis=1), np.concatenate([labels, padding[1]], axis=1)


def _check_constants(manifest: OnnxManifest, width: int, side: int) -> None:
    """Checks that the manifest's constants have the graphs' sizes.

    Raises:
        OnnxModelError: If a constant has another size.
    """
    expected = {"image_size": manifest.stride * side, "mean": 3, "std": 3, "mask_downsample": 17}
    expected |= {"no_mem_embed": width, "no_obj_ptr": width}
    for name, size in expected.items():
        value = getattr(manifest, name)
        actual = len(value) if isinstance(value, list) else value
        if actual != size:
            unit = "" if name == "image_size" else " numbers"
            raise OnnxModelError(
                f"{MANIFEST}: {name} is {actual!r}{unit}; the graphs need {size}; export the model again"
            )


class OnnxModel:
    """Exported model whose methods run its graphs."""

    def __init__(self, manifest: OnnxManifest, run: RunGraph) -> None:
        self.manifest, self._run = manifest, run
        self.mask_side = 4 * manifest.image_size // manifest.stride
        self.no_mem_embed = np.array(manifest.no_mem_embed, np.float32).reshape(1, -1, 1, 1)
        self.no_obj_ptr = np.array([manifest.no_obj_ptr], np.float32)

    def encode(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Returns an image's feature levels, finest first. The last level is ``(1, C, H, W)`` without no_mem_embed.

        Args:
            pixels: RGB pixels ``(S, S, 3)``, fp32 or uint8, in [0, 255].
        """
        mean, std = (np.array(x, np.float32) for x in (self.manifest.mean, self.manifest.std))
        normalised = (pixels.astype(np.float32) / np.float32(255) - mean) / std
        return list(self._run("encoder", {"pixels": normalised.transpose(2, 0, 1)[None]}))

    def decode(
        self,
        levels: list[np.ndarray],
        features: np.ndarray,
        coords: np.ndarray,
        labels: np.ndarray,
        mask: np.ndarray | None = None,
    ) -> list[np.ndarray]:
        """Returns masks ``(B, 4, h, w)``, IoUs ``(B, 4)``, pointers ``(B, 4, C)`` and scores ``(B, 1)`` of B prompts.

        Args:
            levels: feature levels from :meth:`encode`. The last level is not used.
            features: feature map ``(B or 1, C, H, W)``, used as the last level.
            coords, labels: points ``(B, P, 2)`` fp32 in the model's input pixels and labels ``(B, P)`` int32; P may be
                0. The last point is :func:`a padding point <with_padding_point>`.
            mask: logits ``(B or 1, 1, h, w)`` of a mask prompt.
        """
        count, side = len(coords), self.mask_side
        prompt = np.zeros((1, 1, side, side), np.float32) if mask is None else mask
        inputs = {
            **{f"high{i}": level for i, level in enumerate(levels[:-1])},
            "features": np.broadcast_to(features, (count, *features.shape[1:])),
            "coords": coords.astype(np.float32),
            "labels": labels,
            "mask": np.broadcast_to(prompt, (count, 1, side, side)),
            "has_mask": np.full(count, mask is not None, np.float32),
        }
        return list(self._run("decoder", {name: np.ascontiguousarray(x) for name, x in inputs.items()}))

    def attend(
        self,
        features: np.ndarray,
        memories: np.ndarray,
        time_rows: np.ndarray,
        pointers: np.ndarray,
        offsets: np.ndarray,
    ) -> np.ndarray:
        """Conditions a frame's map ``(1, C, H, W)`` on memories of B objects. Returns maps ``(B, C, H, W)``.

        Args:
            memories, time_rows: memories ``(B, K, n, m)`` and rows ``(B, K)`` int64 of temporal position encodings.
            pointers, offsets: pointers ``(B, L, C)`` and distances in time ``(B, L)``, divided by the longest distance.
        """
        memory_inputs = {"memories": memories, "time_rows": time_rows, "pointers": pointers, "offsets": offsets}
        return self._run("memory_attention", {"features": features, **memory_inputs})[0]

    def encode_memory(
        self, features: np.ndarray, masks: np.ndarray, scores: np.ndarray, from_prompt: bool
    ) -> np.ndarray:
        """Encodes masks ``(B, 1, h, w)``, scores ``(B, 1)`` and a map ``(1, C, H, W)`` as memories ``(B, n, m)``."""
        binary = from_prompt and self.manifest.binarize_mask_from_pts_for_mem_enc
        flags = np.full(len(masks), binary, np.float32)
        return self._run(
            "memory_encoder", {"features": features, "masks": masks, "scores": scores, "from_prompt": flags}
        )[0]

    def single_mask(self, masks: np.ndarray, ious: np.ndarray) -> np.ndarray:
        """Returns the index of each object's single mask: 0 if mask 0 is stable, else the best of masks 1 to 3.

        Source: ``sam2.modeling.sam.mask_decoder.MaskDecoder._dynamic_multimask_via_stability``.
        """
        if self.manifest.stability is None:
            return np.zeros(len(masks), np.int64)
        delta, threshold = self.manifest.stability
        inner, outer = ((masks[:, 0] > level).sum(axis=(1, 2)) for level in (delta, -delta))
        stable = np.where(outer > 0, inner.astype(np.float32) / np.maximum(outer, 1), 1.0) >= threshold
        return np.where(stable, 0, 1 + ious[:, 1:].argmax(axis=1))

    def use_multimask(self, initial: bool, clicks: int) -> bool:
        """Returns True if the best of three masks is used for an initial or correcting prompt of ``clicks`` points."""
        manifest = self.manifest
        is_enabled = manifest.multimask_output_in_sam and (initial or manifest.multimask_output_for_tracking)
        return is_enabled and manifest.multimask_min_pt_num <= clicks <= manifest.multimask_max_pt_num

    def predict(
        self,
        levels: list[np.ndarray],
        features: np.ndarray,
        points: tuple[np.ndarray, np.ndarray] | None,
        mask: np.ndarray | None,
        multimask: bool,
    ) -> ObjectMasks:
        """Predicts one mask for each of B objects on a video frame.

        Args:
            levels, mask: see :meth:`decode`.
            features: feature map ``(B, C, H, W)``.
            points: coordinates and labels for :meth:`decode`, without a padding point, or None.
            multimask: if True, selects the best of three masks; otherwise, the single mask.
        """
        if points is None:  # without points, the prompt has two padding points, and the second is appended below
            count = len(features)
            points = with_padding_point(np.zeros((count, 0, 2), np.float32), np.zeros((count, 0), np.int32))
        masks, ious, pointers, scores = self.decode(levels, features, *with_padding_point(*points), mask)
        rows = np.arange(len(masks))
        choice = 1 + ious[:, 1:].argmax(axis=1) if multimask else self.single_mask(masks, ious)
        token = choice if multimask and self.manifest.use_multimask_token_for_obj_ptr else np.zeros_like(choice)
        selected = np.where((scores > 0)[..., None], masks[rows, choice], NO_OBJ_SCORE)[:, None]
        pointer = np.where(scores > 0, pointers[rows, token], self.no_obj_ptr)
        return ObjectMasks(selected, ious[rows, choice][:, None], pointer, scores)

    def take_mask(self, levels: list[np.ndarray], mask: np.ndarray) -> ObjectMasks:
        """Returns the results for a mask prompt ``(1, 1, S, S)`` with values 0 and 1.

        Source: ``sam2.modeling.sam2_base.SAM2Base._use_mask_as_output``.
        """
        *kernel, bias = self.manifest.mask_downsample
        side = self.manifest.image_size // 4
        blocks = mask.reshape(side, 4, side, 4)
        small = np.einsum("iyjx,yx->ij", blocks, np.array(kernel, np.float32).reshape(4, 4)) + np.float32(bias)
        small = resize(small, (self.mask_side,) * 2, antialias=True)
        pointer = self.predict(levels, levels[-1], None, small[None, None], multimask=False).pointer
        present = (mask > 0).any()
        low_res = resize(mask * np.float32(20) - np.float32(10), (self.mask_side,) * 2, antialias=True)
        score = np.full((1, 1), 10 if present else -10, np.float32)
        return ObjectMasks(low_res, np.ones((1, 1), np.float32), pointer if present else self.no_obj_ptr, score)
