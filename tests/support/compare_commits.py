"""Compares the results of two commits bit by bit: masks, scores and features of images, sessions and streams.

    python tests/support/compare_commits.py COMMIT            # the working tree beside a commit
    python tests/support/compare_commits.py --store FILE      # digests of the package on PYTHONPATH

Each model tracks a clip in nine kinds of sessions and streams. With nano, eight modules get a hook, and three methods
are replaced. Models compute by plans of the CPU, by plans of other devices, by modules, and under autocast. A
digest is the SHA-256 of all tensors of a case. The exit status is 1 if a case differs.
"""

import argparse
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tame_weights
import torch

from sam2fast import SAM2ImagePredictor, build_sam2_video_predictor, engine

ROOT = Path(__file__).resolve().parents[2]
HEIGHT, WIDTH, FRAMES = 90, 120, 7
MODELS = {
    "nano": ("configs/nano/sam2fast_nano.yaml", 128),
    "tiny": ("configs/sam2.1/sam2.1_hiera_t.yaml", 256),
    "EdgeTAM": ("configs/edgetam/edgetam.yaml", 256),
    "EfficientTAM": ("configs/efficienttam/efficienttam_ti.yaml", 256),
    "SAM 3": (str(ROOT / "tests" / "support" / "sam3_small.yaml"), 168),
}
HOOKED = ("image_encoder", "image_encoder.trunk", "sam_prompt_encoder", "sam_mask_decoder", "memory_attention",
          "memory_encoder", "obj_ptr_proj", "mask_downsample")  # fmt: skip
REPLACED = ("_use_mask_as_output", "forward_image", "_encode_pointer_distances")
OTHERS_PLANS, MODULES, AUTOCAST = "plans of other devices", "modules", "autocast"
Answer = tuple[Any, ...]
Kind = Callable[[Any, Any], Iterator[Answer]]


def frames() -> list[np.ndarray]:
    """Returns a disc and a square that cross over a texture."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    texture = np.stack([np.sin(x / 9 + y / 7), np.cos(x / 5 - y / 11), np.sin(y / 6)], axis=-1) * 50 + 120
    images = []
    for t in range(FRAMES):
        image = texture.copy()
        image[(y - 40) ** 2 + (x - 25 - 9 * t) ** 2 < 14**2] = [250, 40, 30]
        image[55:80, 90 - 8 * t : 112 - 8 * t] = [20, 60, 240]
        images.append(image.clip(0, 255).astype(np.uint8))
    return images


def square() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[55:80, 90:112] = True
    return mask


def clicked(p: Any, state: Any) -> Iterator[Answer]:
    yield p.add_new_points_or_box(state, 0, 1, [[25, 40]], [1])
    yield from p.propagate_in_video(state, progress=False)


def two_objects(p: Any, state: Any) -> Iterator[Answer]:
    yield p.add_new_points_or_box(state, 0, "disc", box=[11, 26, 39, 54])
    yield p.add_new_mask(state, 0, 7, square())
    yield from p.propagate_in_video(state, progress=False)


def corrected(p: Any, state: Any) -> Iterator[Answer]:
    yield from clicked(p, state)
    yield p.add_new_points_or_box(state, 3, 1, [[52, 40], [90, 10]], [1, 0])
    yield from p.propagate_in_video(state, progress=False)


def reversed_pass(p: Any, state: Any) -> Iterator[Answer]:
    yield p.add_new_points_or_box(state, 5, 1, [[70, 40]], [1])
    yield from p.propagate_in_video(state, reverse=True, progress=False)


def late_and_removed(p: Any, state: Any) -> Iterator[Answer]:
    yield p.add_new_points_or_box(state, 0, 1, [[25, 40]], [1])
    yield p.add_new_points_or_box(state, 2, 2, box=[74, 55, 96, 80])
    yield from p.propagate_in_video(state, max_frame_num_to_track=4, progress=False)
    yield 0, *p.remove_object(state, 1)
    yield from p.propagate_in_video(state, progress=False)


def saved(p: Any, state: Any) -> Iterator[Answer]:
    yield p.add_new_points_or_box(state, 0, 1, [[25, 40]], [1])
    passing = p.propagate_in_video(state, progress=False)
    yield from (next(passing) for _ in range(4))
    passing.close()
    with tempfile.TemporaryDirectory() as folder:
        p.save_state(state, Path(folder) / "state")
        again = p.load_state(Path(folder) / "state", frames())
    yield from p.propagate_in_video(again, start_frame_idx=4, progress=False)


def together(p: Any, _state: Any) -> Iterator[Answer]:
    state = p.init_state(frames(), strategy="together")
    yield from two_objects(p, state)


def stream(p: Any, _state: Any) -> Iterator[Answer]:
    with p.open_stream() as live:
        for t, image in enumerate(frames()):
            found = live.step(image)
            yield t, found.obj_ids, found.masks
            if t in (0, 3):
                found = live.add_new_points_or_box(t, [[25 + 9 * t, 40]], [1])
                yield t, found.obj_ids, found.masks


def image(p: Any, _state: Any) -> Iterator[Answer]:
    predictor = SAM2ImagePredictor(p)
    for pixels in frames()[:2]:
        predictor.set_image(pixels)
        yield predictor.predict(np.array([[25, 40]]), np.array([1]))
        masks, scores, logits = predictor.predict(box=np.array([[11, 26, 39, 54], [90, 55, 112, 80]]))
        yield masks, scores, logits
        yield predictor.predict(np.array([[25, 40]]), np.array([1]), mask_input=logits[0, :1], multimask_output=False)


KINDS: tuple[Kind, ...] = (
    clicked, two_objects, corrected, reversed_pass, late_and_removed, saved, together, stream, image,
)  # fmt: skip


def digest(p: Any, kind: Kind) -> str:
    """Returns the digest of all answers, or the type of the error if the case is refused."""
    found = hashlib.sha256()
    try:
        answers = list(kind(p, p.init_state(frames())))
    except (RuntimeError, TypeError, ValueError) as error:
        return f"refused: {type(error).__name__}"
    for answer in answers:
        for part in torch.utils._pytree.tree_leaves(answer):
            if isinstance(part, torch.Tensor | np.ndarray):
                array = np.ascontiguousarray(torch.as_tensor(part).float().numpy())
                found.update(repr(array.shape).encode() + array.tobytes())
            else:
                found.update(repr(part).encode())
    return found.hexdigest()


def scaled(_module: Any, _inputs: Any, out: Any) -> Any:
    """Scales all floating-point results of a module, as a hook."""
    change = lambda x: x * 1.03 if isinstance(x, torch.Tensor) and x.is_floating_point() else x  # noqa: E731
    return torch.utils._pytree.tree_map(change, out)


@contextlib.contextmanager
def hooked(p: Any, names: tuple[str, ...], hook: Callable[..., Any]) -> Iterator[None]:
    handles = [p.get_submodule(name).register_forward_hook(hook) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def replaced(p: Any, name: str) -> Iterator[None]:
    own = getattr(p, name)
    setattr(p, name, lambda *given, **named: scaled(None, None, own(*given, **named)))
    try:
        yield
    finally:
        delattr(p, name)


@contextlib.contextmanager
def plans_of_other_devices() -> Iterator[None]:
    uses_cpu, engine._uses_cpu = engine._uses_cpu, lambda x: False
    try:
        yield
    finally:
        engine._uses_cpu = uses_cpu


def cases(only: str) -> Iterator[tuple[str, str]]:
    """Yields the name and the digest of each case."""
    for model, (config, side) in MODELS.items():
        if only not in model:
            continue
        options = {"device": "cpu", "image_size": side}
        p = tame_weights.built(build_sam2_video_predictor, config, None, **options)
        ways: dict[str, contextlib.AbstractContextManager[Any]] = {
            "plans": contextlib.nullcontext(),
            OTHERS_PLANS: plans_of_other_devices(),
            MODULES: hooked(p, HOOKED[2:6], lambda *_: None),
            AUTOCAST: torch.autocast("cpu", torch.bfloat16),
        }
        if model == "nano":
            ways |= {f"hook on {name}": hooked(p, (name,), scaled) for name in HOOKED}
            ways |= {f"replaced {name}": replaced(p, name) for name in REPLACED}
        for way, context in ways.items():
            with context:
                for kind in KINDS:
                    yield f"{model}, {way}: {kind.__name__}", digest(p, kind)


def digests_of(tree: Path, only: str) -> dict[str, str]:
    """Returns the digests of a checkout, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digests.json"
        command = [sys.executable, __file__, "--store", str(path), "--only", only]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(tree)})
        found: dict[str, str] = json.loads(path.read_text())
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", nargs="?", default="HEAD")
    parser.add_argument("--store", type=Path)
    parser.add_argument("--only", default="", help="compare only models whose names contain this text")
    args = parser.parse_args()
    if args.store:
        torch.set_num_threads(1)  # the same order of sums in all runs
        found = dict(cases(args.only))
        args.store.write_text(json.dumps(found, indent=1))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "--detach", "--quiet", str(tree), args.commit], cwd=ROOT, check=True)
        try:
            before, now = digests_of(tree, args.only), digests_of(ROOT, args.only)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)
    differing = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    for name in differing:
        print(f"differs: {name}")
    refused = [name for name, value in now.items() if value.startswith("refused: ")]
    print(f"refused: {', '.join(refused) or 'none'}")
    print(f"{len(now)} cases, {len(differing)} differ; {len(set(now.values()))} different digests")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
