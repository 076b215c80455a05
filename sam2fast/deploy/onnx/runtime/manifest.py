"""Manifest of a folder of ONNX graphs: constants of the model and digests of the files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam2fast.io.file_records import file_sha256, read_record
from sam2fast.modeling.memory_selection import MemoryRules

MANIFEST = "model.json"
FORMAT = "sam2fast-onnx-1"
GRAPHS = ("encoder", "decoder", "memory_attention", "memory_encoder")
STRATEGIES = ("sam2", "together")  # strategies of the tracker


class OnnxModelError(RuntimeError):
    """Raised if a folder has no exported model, or the model cannot be used with this version."""


@dataclass(frozen=True)
class OnnxManifest:
    """Constants of an exported model. Settings have the same names as in the model's configuration."""

    config: str | None  # name of the model's configuration
    dtype: str  # dtype of the weights: float32, float16 or int8
    opset: int
    versions: dict[str, str]  # versions of sam2fast, torch and the ONNX packages that wrote the graphs
    weights: str  # SHA-256 of all weights
    files: dict[str, dict[str, Any]]  # by file name: size in bytes and SHA-256
    image_size: int
    mean: list[float]
    std: list[float]
    no_mem_embed: list[float]  # (C,)
    no_obj_ptr: list[float]  # (C,)
    mask_downsample: list[float]  # 4x4 convolution kernel row by row, then the bias
    memory_rules: dict[str, Any]  # fields of MemoryRules
    multimask_output_in_sam: bool
    multimask_output_for_tracking: bool
    multimask_min_pt_num: int
    multimask_max_pt_num: int
    use_multimask_token_for_obj_ptr: bool
    stability: list[float] | None  # delta and threshold for dynamic_multimask_via_stability; None if not used
    binarize_mask_from_pts_for_mem_enc: bool
    fill_hole_area: float
    non_overlap_masks: bool
    clear_non_cond_mem_around_input: bool
    add_all_frames_to_correct_as_cond: bool
    stride: int = 16  # image pixels per position of a feature map
    strategy: str = "sam2"  # default strategy of videos
    format: str = FORMAT
    agreement: dict[str, float] | None = None  # mean and worst IoU with float32's masks at the export; number of masks

    def __post_init__(self) -> None:
        MemoryRules(**self.memory_rules)
        check_strategy(self.strategy)
        if not all(file["sha256"] for file in self.files.values()):
            raise ValueError("a file has no digest")


def check_strategy(name: str) -> str:
    """Returns ``name`` if it is a strategy of the tracker.

    Raises:
        ValueError: If the tracker has no strategy ``name``.
    """
    if name not in STRATEGIES:
        raise ValueError(f"this tracker has no strategy {name!r}; expected {' or '.join(STRATEGIES)}")
    return name


def read_manifest(folder: str | Path) -> OnnxManifest:
    """Reads the manifest of an exported model and checks its graphs.

    Raises:
        OnnxModelError: If the manifest is missing, damaged or of another version, or a graph is missing or was changed.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise OnnxModelError(
            f"no exported model in {str(folder)!r}: it has no {MANIFEST}; sam2fast export --format onnx makes one"
        )
    manifest = read_record(path, OnnxManifest, OnnxModelError)
    for name in (f"{graph}.onnx" for graph in GRAPHS):
        file = Path(folder) / name
        if not file.is_file():
            raise OnnxModelError(f"{file} is missing; export the model again")
        if file_sha256(file) != manifest.files.get(name, {}).get("sha256"):
            raise OnnxModelError(f"{file} is not the file that {MANIFEST} describes; export the model again")
    return manifest
