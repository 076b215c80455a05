"""The plan of a visit to a CUDA machine: its steps in order, and the question that each of them answers.

Imports nothing that a machine may lack. The seconds are estimates for 16 processors beside an H100 or H200.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

BUDGETS_S = (570.0, 250.0)  # of the visit's first call and of each later one
RETRY_S = 100.0  # most that a step gets which timed out before: compiled code is there by then
MOST_JOBS = 14  # steps side by side
FAILED = "FAILED"  # begins verdicts
CHECKS = ("parity", "recorded", "graph_memory")  # jobs that time nothing
# Torch's compiler then leaves products and convolutions to torch: choosing among its own takes more than six minutes.
ATEN_ONLY = {f"TORCHINDUCTOR_MAX_AUTOTUNE_{kind}_BACKENDS": "ATEN" for kind in ("GEMM", "CONV")}


class Step(NamedTuple):
    """One process.

    Attributes:
        name: name in the table; ``--only`` finds steps by it.
        job: function of :mod:`gpu.work` that runs, and its argument.
        seconds: estimated duration. The step begins only if the budget has this much left.
        limit_s: the process is killed after this time.
        question: the question that the step answers.
        alone: True if it times something, and so has the machine for itself.
        needs: packages besides torch, triton and numpy. Without one of them it does not begin.
    """

    name: str
    job: tuple[str, str]
    seconds: float
    limit_s: float
    question: str
    alone: bool = True
    needs: tuple[str, ...] = ()


class Comparison(NamedTuple):
    """Compares cases of an op with the other ways of computing it, and has the sentence for either outcome.

    Attributes:
        op: the op of the cases, which are those in bfloat16 if it has any.
        slower: the end of the sentence if ours is not the fastest at every shape.
        faster: the end of the sentence if it is.
        shapes: regular expression of the cases' shapes.
        subjects: our subjects; the first that was timed counts.
        others: regular expression of the subjects that it is compared with.
    """

    op: str
    slower: str
    faster: str = "the kernel stays"
    shapes: str = r"(?!.*(compiled|fp8)).*"
    subjects: tuple[str, ...] = ("triton", "sam2fast")
    others: str = r"(?!triton|sam2fast).*"

    def sentence(self, ratios: dict[str, float]) -> str:
        """Returns the sentence that is true of these ratios by shape: the least time of the others over ours."""
        slow = [f"{shape} ({ratio:.2f})" for shape, ratio in ratios.items() if ratio <= 1]
        if slow:
            where = ", ".join(slow)
            return f"`{self.op}` has at most the speed of the fastest alternative at {where}: {self.slower}."
        span = " to ".join(dict.fromkeys(f"{ratio:.2f}" for ratio in (min(ratios.values()), max(ratios.values()))))
        return f"`{self.op}` is {span} times as fast as the fastest alternative: {self.faster}."


COMPARED = (
    Comparison("memory_attention", "these banks are to be left to torch", shapes=".*x28736"),
    # Beside torch's attention to maps that our kernel rotates.
    *(Comparison("rope_attention", f"torch is to attend for {count}", f"our kernel is to attend for {count}",
                 f"{count}, 4096x4096", others="rotation, .*") for count in map("{} objects".format, (1, 2, 3, 4))),
    Comparison("linear_gelu", "these shapes are to be left to torch (`TORCH` in `config`)", others="torch"),
    Comparison("linear_gelu", "tiles stay", "`WIDE_TILES` are to be chosen", ".*x384 .*", ("wide tiles",), "triton"),
    Comparison("mlp", "MLPs of these widths are to stay three launches (`is_joined`)", "they are to be joined"),
    Comparison("window_attention", "these windows are to be left to torch", others="SDPA.*"),
    *(Comparison("window_attention", "tiles of large windows stay", f"{name} are to be chosen (`OTHER_TILES`)",
                 ".*window 1[46] (?!.*pooled).*", (name,), "triton") for name in ("whole windows", "tiles of 64")),
    Comparison("pooled_window_attention", "residuals are to be pooled by torch"),
    Comparison("layer_norm", "`config` needs another number of elements and warps for these widths"),
    Comparison("norm_linear", "these shapes are to be left to torch"),
    Comparison("grouped_mlp", "these shapes are to be left to torch"),
    Comparison("token_attention", "these shapes are to be left to torch (`_prefers_torch`)"),
    Comparison("mask_logits", "logits of masks are to be left to torch"),
    Comparison("choose_masks", "masks are to be chosen by torch"),
    Comparison("downsample_logits", "the first step is to be left to torch"),
    Comparison("downsample_map", "these steps are to be left to torch"),
    Comparison("depthwise_norm", "these convolutions are to be left to torch"),
    Comparison("preprocess", "images of these sizes are to be resized by torch"),
    Comparison("embed_patches", "patches are to be convolved by torch"),
    Comparison("mask_statistics", "statistics are to be computed from upsampled masks"),
    Comparison("upsample_and_threshold", "masks are to be upsampled by torch"),
    Comparison("upsample_and_pack", "masks are to be upsampled by torch and then packed"),
    Comparison("pack_masks", "masks are to be packed by torch"),
    Comparison("unpack_masks", "masks are to be unpacked by torch"),
    Comparison("scaled_probabilities", "probabilities are to be computed by torch"),
    Comparison("suppress_overlaps", "overlaps are to be suppressed by torch"),
    Comparison("connected_components", "components of masks of these sizes are to be labelled by the alternative"),
    Comparison("fill_holes_and_remove_sprinkles", "holes are to be filled by the alternative"),
    Comparison("fill_holes_in_mask_scores", "holes are to be filled by the alternative"),
    Comparison("box_nms", "these numbers of boxes are to be suppressed by the alternative"),
    Comparison("mask_nms", "these numbers of masks are to be suppressed by torch"),
    Comparison("encode_masks", "masks of these sizes are to be encoded by the alternative"),
    Comparison("encode_upsampled", "masks are to be upsampled before they are encoded"),
    Comparison("decode_masks", "masks are to be decoded by torch"),
)  # fmt: skip

# Kernels that no configuration takes, beside the one that it takes. They run in a step of their own: one that never
# ends costs no other row.
CANDIDATES = tuple(
    Comparison(op, f"the candidate ({name}) is not to be chosen", f"the candidate ({name}) is to be chosen",
               f".*, {name}", (f"sam2fast, {name}",), "sam2fast")
    for op, name in (("memory_attention", "specialised"), ("rope_attention", "specialised"),
                     ("memory_attention", "in Gluon"))
)  # fmt: skip


class Parity(NamedTuple):
    """Tests of ``tests/kernels/test_parity.py`` in a step: ``pytest -k``, seconds, and ops.

    If the step fails or times out, later steps that time something leave the ops to torch. These steps compute in
    bfloat16, so tests in float32 alone name no ops.
    """

    keywords: str
    seconds: float
    ops: tuple[str, ...] = ()


FILLS_HOLES = "fill_holes_in_mask_scores"  # its way by torch prevents CUDA graphs
_MEMORY = "memory_attention and not rope_attention and not fp8 and not candidate"
# The longest first. Most of the time is compilation, side by side.
PARITY = {
    "connected_components": Parity("connected_components and not fill_holes", 60, ("connected_components",)),
    "candidates": Parity("candidate", 60),
    "memory_attention": Parity(f"{_MEMORY} and bfloat16", 58, ("memory_attention",)),
    "memory_attention in float32": Parity(f"{_MEMORY} and float32", 58),
    "fill_holes_in_mask_scores": Parity("fill_holes", 55, (FILLS_HOLES,)),
    "rope_attention": Parity("rope_attention", 55, ("rope_attention",)),
    "mask_ops": Parity("mask_ops", 50, ("mask_statistics", "upsample_and_threshold", "upsample_and_pack", "pack_masks",
                                        "unpack_masks", "scaled_probabilities", "suppress_overlaps")),
    "window_attention": Parity("window_attention and bfloat16", 50, ("window_attention",)),
    "memory_attention in fp8": Parity("fp8", 50),
    "run_lengths": Parity("run_lengths", 50, ("run_lengths",)),
    "window_attention in float32": Parity("window_attention and float32", 45),
    "nms": Parity("nms", 45, ("nms",)),
    "mask_downsampler": Parity("mask_downsampler", 35, ("downsample_logits", "downsample_map")),
    "norm_linear": Parity("norm_linear", 35, ("norm_linear",)),
    "grouped_mlp": Parity("grouped_mlp", 32, ("grouped_mlp",)),
    "mlp": Parity("mlp and not grouped_mlp", 30, ("mlp",)),
    "token_attention": Parity("token_attention", 30, ("token_attention",)),
    "depthwise_norm": Parity("depthwise_norm", 30, ("depthwise_norm",)),
    "linear_gelu": Parity("linear_gelu", 25, ("linear_gelu",)),
    "layer_norm": Parity("layer_norm", 20, ("layer_norm",)),
    "mask_logits": Parity("mask_logits", 20, ("mask_logits",)),
    "choose_masks": Parity("choose_masks", 20, ("choose_masks",)),
    "embed_patches": Parity("embed_patches", 20, ("embed_patches",)),
    "preprocess": Parity("preprocess", 15, ("preprocess",)),
}  # fmt: skip
# Steps of suite.plans -> seconds and question, in the visit's two calls.
FIRST_CALLS = {
    "ahead": (40, "How fast is a frame of tiny if 1, 2, 4 or 8 frames are encoded at once, in turn in one process?"),
    "objects": (45, "How does tiny's frame grow with 1, 4, 16 and 64 objects, at 1024 and 512 pixels?"),
    "ours": (50, "How fast are frames of small, base+ and large, and which share of the host's thread do they take?"),
    "images": (35, "How fast are images, a click and 1, 16 and 64 boxes, and which part is the device's, the copies' "
                   "and the host's?"),
    "official": (60, "How many times as fast as the official package in eager mode are tiny, small, base+ and large, "
                     "and do their masks agree?"),
    "peak memory": (35, "How much memory do four objects of a video take beside the official package's, and how fast "
                        "are they?"),
}  # fmt: skip
LAST_CALLS = {
    "stream": (20, "How long does a frame of a live stream take?"),
    # Tiny's may take all that is left of a call: compiled code is kept for the next one.
    "vos_optimized t": (110, "How fast is tiny's official compiled predictor, if torch's compiler leaves products and "
                             "convolutions to ATEN?"),
    "vos_optimized l": (70, "How fast is large's official compiled predictor?"),
}  # fmt: skip
COMPILED_LIMIT_S = {"vos_optimized t": BUDGETS_S[0], "vos_optimized l": 120.0}
BUILDING, TESTING = ("omegaconf",), ("pytest",)  # needed to build a predictor, and for parity


def plan() -> list[Step]:
    """Returns every step in order."""

    def call(name: str, seconds: float, question: str) -> Step:
        limit_s = COMPILED_LIMIT_S.get(name, 2 * seconds)
        return Step(f"call {name}", ("call", name), seconds, limit_s, question, needs=BUILDING)

    def parity(name: str, job: tuple[str, str], seconds: float, question: str, needs: tuple[str, ...]) -> Step:
        return Step(f"parity {name}", job, seconds, 2 * seconds, question, alone=False, needs=needs)

    is_right = "Are results of {} right on random inputs, beside float64?"
    return [
        Step("environment", ("environment", ""), 20, 60,
             "How fast does this GPU multiply and copy, at once and for a second, and at which clocks?"),
        # It compiles the kernels of all steps after it.
        Step("profile", ("profile", "t"), 35, 120, "Which kernels take a frame of tiny, do encoder and step overlap, "
             "and how many encodes does a frame take?", needs=BUILDING),
        # Before anything else is timed: a kernel that fails is left to torch from then on.
        parity("recorded images", ("recorded", "test_images"), 95, "Do recorded images equal plain ones?",
               (*TESTING, *BUILDING)),
        parity("recorded steps", ("recorded", "test_parity"), 90, "Do recorded steps equal plain ones?",
               (*TESTING, *BUILDING)),
        *(parity(name, ("parity", each.keywords), each.seconds, is_right.format(name), TESTING)
          for name, each in PARITY.items()),
        parity("memory of graphs", ("graph_memory", ""), 20, "Do graphs keep the memory that they use?", ()),
        Step("candidates", ("micro", "candidates"), 20, 60, "Is attention with specialised warps, by Triton and in "
             "Gluon, right and faster than without?"),
        Step("micro", ("micro", ""), 120, 150, "Is each kernel faster than its alternatives, and self-attention than "
             "cuDNN's for 1, 2, 3 and 4 objects?"),
        *(call(name, *about) for name, about in FIRST_CALLS.items()),
        Step("mask copies", ("mask_copies", ""), 10, 40, "How long do masks of 1, 16 and 64 boxes take to be packed, "
             "copied, unpacked, and first written?"),
        Step("real files", ("real_files", "t"), 65, 130, "How long do `track` and `vos` take from a video file to "
             "masks in files, beside the official package?", needs=BUILDING),
        Step("at once", ("at_once", ""), 50, 100, "How many frames of tiny and mini are tracked in a second if 1, 2 "
             "or 4 processes share the GPU, at 512 and 1024 pixels?", needs=BUILDING),
        *(call(name, *about) for name, about in LAST_CALLS.items()),
    ]  # fmt: skip


def failed_ops(verdicts: Mapping[str, Mapping[str, Any]], fills_holes: bool) -> list[str]:
    """Returns the ops whose latest parity step failed or timed out. Without ``fills_holes``, omits hole filling."""
    failed = {name for name, record in verdicts.items() if record["verdict"].startswith(FAILED)}
    found = [op for name, each in PARITY.items() if f"parity {name}" in failed for op in each.ops]
    return [op for op in found if fills_holes or op != FILLS_HOLES]


class Planned(NamedTuple):
    """A step at its time."""

    call: int
    begin_s: float
    end_s: float
    step: Step


def timetable(steps: Sequence[Step], budgets_s: Sequence[float] = BUDGETS_S, jobs: int = MOST_JOBS) -> list[Planned]:
    """Returns when each step runs by the plan's own seconds. The last budget is that of all later calls, too."""
    found: list[Planned] = []
    left, call = list(steps), 0
    while left:
        budget_s = budgets_s[min(call, len(budgets_s) - 1)]
        call, now, skipped = call + 1, 0.0, []
        for alone, some in groupby(left, key=lambda step: step.alone):
            free = [now] * (1 if alone else jobs)  # when each process can begin
            for step in some:
                begin = min(free)
                if begin + step.seconds > budget_s:
                    skipped.append(step)
                    continue
                free[free.index(begin)] = begin + step.seconds
                found.append(Planned(call, begin, begin + step.seconds, step))
            now = max(free)
        left = skipped
    return found


def listed(planned: Iterable[Planned]) -> str:
    """Writes a line for each step: its call, its first and last second, its name and its question."""
    lines = [f"{p.call:4} {p.begin_s:5.0f} {p.end_s:5.0f}  {p.step.name:31} {p.step.question}" for p in planned]
    return "\n".join(["call  from    to  step                            question", *lines])
