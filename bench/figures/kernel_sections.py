"""Every generated part of the pages on kernels, by name."""

from collections.abc import Callable

from figures import kernel_figures, kernel_measured
from figures.kernel_measured import measured
from figures.launch_figures import launches
from figures.results import Results

LAUNCHED = (
    "connected_components",
    "layer_norm",
    "linear_gelu",
    "mask_ops",
    "memory_attention",
    "nms",
    "preprocess",
    "run_lengths",
    "window_attention",
)
# Ours, as the files name it: the twin or the way of the CPU, the dispatcher's choice, the kernel.
OURS = {"torch twin": "torch twin", "sam2fast": "sam2fast", "triton": "kernel"}
# The pages' tables of measurements: the ops, who is shown under which name, and the step of `make gpu`.
MEASURED: dict[str, tuple[list[str], dict[str, str], str]] = {
    "window-attention": (["window_attention"], {"SDPA": "windows cut out, SDPA", **OURS}, "window_attention"),
    "memory-attention": (
        ["memory_attention", "rope_attention"],
        {"projected values, SDPA": "as published, SDPA", "rotated before, SDPA": "as published, SDPA", **OURS},
        "memory_attention",
    ),
    **{
        op.replace("_", "-"): ([op], {"torch": "torch", **OURS}, "encoder")
        for op in ("layer_norm", "linear_gelu", "preprocess")
    },
    "connected-components": (
        ["connected_components"],
        {"scipy on the host": "scipy", "torch loop": "plain torch loop", "torch": "torch twin", **OURS},
        "connected_components",
    ),
    "fill-holes": (["fill_holes_and_remove_sprinkles"], {"torch": "torch twin", **OURS}, "connected_components"),
    "mask-ops": (
        [
            "mask_statistics",
            "upsample_and_threshold",
            "upsample_and_pack",
            "pack_masks",
            "unpack_masks",
            "suppress_overlaps",
        ],
        {"full-size logits": "full-size logits", "torch": "torch twin", **OURS},
        "masks",
    ),
    "run-lengths": (
        ["encode_masks", "encode_upsampled", "decode_masks"],
        {"one by one": "one by one", "full-size logits, one by one": "one by one", **OURS},
        "mask lists",
    ),
    "nms": (["box_nms", "mask_nms"], {"torchvision": "torchvision", **OURS}, "mask lists"),
}
SECTIONS: dict[str, Callable[[Results], str]] = {
    "kernel-limits": kernel_figures.limits,
    "work-window-attention": kernel_figures.window_attention,
    "work-memory-attention": kernel_figures.memory_attention,
    "memory-folding": kernel_figures.memory_folding,
    "memory-share": kernel_figures.memory_share,
    "work-layer-norm": kernel_figures.layer_norm,
    "work-linear-gelu": kernel_figures.linear_gelu,
    "work-preprocess": kernel_figures.preprocess,
    "work-connected-components": kernel_figures.connected_components,
    "work-mask-ops": kernel_figures.mask_ops,
    "work-run-lengths": kernel_figures.run_lengths,
    "work-nms": kernel_figures.nms,
    **{f"launch-{op.replace('_', '-')}": launches(op) for op in LAUNCHED},
    "encoder-parts": kernel_measured.encoder_parts,
    **{f"measured-{page}": measured(*shown) for page, shown in MEASURED.items()},
}
