"""Runs a published tracker on the CPU and records what it attends to, chooses and shows.

    PYTHONPATH=SNAPSHOT:.:tests/support python tests/support/record_strategies.py NAME

The README of ``tests/strategies/recorded`` says of which package ``SNAPSHOT`` is, and what is recorded.
"""

import sys
import tempfile
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import oracle  # noqa: F401  (gives the snapshot's sam2 the extension that fills holes)
import torch
from float32_memory import Float32Memory
from PIL import Image
from strategy_recordings import (
    EVERY,
    FOLDER,
    FRAMES,
    IMAGE_SIZE,
    NANO,
    RECIPES,
    Recipe,
    beside_outlines,
    disc,
    strategy_clip,
    write_frames,
)

CELLS, WIDTH = (IMAGE_SIZE // 16) ** 2, 128  # of a memory; of the model
Named = Iterable[tuple[int, int, torch.Tensor]]  # object, frame, what is stored of it


class Recorder:
    """Listens to a model's parts; knows ``stored`` memories by their values, rows by the positions of ``cells``."""

    def __init__(
        self, model: Any, objects: int, stored: Callable[[], tuple[Named, Named]], cells: Callable[[], Any]
    ) -> None:
        import sam2.modeling.sam2_base as base

        self.frame, self.model, self.stored, self.cells = 0, model, stored, cells
        shape, side = (FRAMES, objects), IMAGE_SIZE // 4
        self.arrays: dict[str, Any] = {
            "masks": np.zeros((*shape, 3, side, side), np.float32),
            "ious": np.zeros((*shape, 3), np.float32),
            "scores": np.zeros(shape, np.float32),
            "chosen": np.full(shape, -1, np.int8),
            "memories": np.full((*shape, 7, 2), -1, np.int16),
            "pointers": np.full((*shape, 16), -1, np.int16),
            "positions": np.zeros((*shape, 16), np.float32),
            "logits": np.zeros((-(-FRAMES // EVERY), objects, side, side), np.float32),
        }
        self._positions: list[Any] = []
        model.sam_mask_decoder.register_forward_hook(self._decoded)
        model.memory_attention.register_forward_pre_hook(self._attended, with_kwargs=True)
        encode, heads = base.get_1d_sine_pe, model._forward_sam_heads
        base.get_1d_sine_pe = lambda x, dim: self._positions.append(x) or encode(x, dim=dim)
        model._forward_sam_heads = lambda *args, **kwargs: self._chosen(heads(*args, **kwargs))

    def _decoded(self, module: Any, args: Any, found: Any) -> None:
        masks, ious, _, scores = found
        if masks.shape[1] == 3:
            for name, values in (("masks", masks), ("ious", ious), ("scores", scores[:, 0])):
                self.arrays[name][self.frame, : len(masks)] = values

    def _chosen(self, found: Any) -> Any:
        candidates, _, ious, best = found[:4]
        if candidates.shape[1] == 3:
            # Masks of an absent object are equal; SAMURAI says which IoU it took, and d4sm takes the highest.
            taken = found[7][:, None] if len(found) > 7 else ious.amax(1, keepdim=True)
            same = (candidates == best).flatten(2).all(-1) & (ious == taken)
            assert same.any(1).all()
            self.arrays["chosen"][self.frame, : len(best)] = same.float().argmax(1)
        return found

    def _attended(self, module: Any, args: Any, given: Any) -> None:
        stored = [{_bytes(x): (obj, t) for obj, t, x in part} for part in self.stored()]
        split = len(given["memory"]) - given["num_obj_ptr_tokens"]
        rows = self.model.maskmem_tpos_enc[:, 0, 0]
        for memory, place in zip(given["memory"].unbind(1), given["memory_pos"].unbind(1), strict=True):
            pointers = [stored[1][_bytes(x)] for x in memory[split:].reshape(-1, WIDTH)]
            obj = pointers[0][0]
            self.arrays["pointers"][self.frame, obj, : len(pointers)] = [t for _, t in pointers]
            maps = zip(memory[:split].split(CELLS), place[:split].split(CELLS), strict=True)
            for k, (cells, encoded) in enumerate(maps):
                owner, t = stored[0][_bytes(cells.T)]
                assert owner == obj
                time = (encoded - self.cells().flatten(2)[0].T).mean(0)
                self.arrays["memories"][self.frame, obj, k] = t, int((rows - time).abs().amax(1).argmin())
        for obj, positions in enumerate(self._positions):
            self.arrays["positions"][self.frame, obj, : len(positions)] = positions
        self._positions = []


def _bytes(x: torch.Tensor) -> bytes:
    return x.contiguous().numpy().tobytes()


def samurai(recipe: Recipe) -> dict[str, Any]:
    sys.modules["loguru"] = types.SimpleNamespace(logger=None)
    import sam2.build_sam
    import sam2.sam2_video_predictor as module

    module.torch = Float32Memory()
    config = "configs/samurai/sam2.1_hiera_t.yaml"
    model = sam2.build_sam.build_sam2_video_predictor(config, None, device="cpu", hydra_overrides_extra=NANO)
    recipe.weights(model)
    with tempfile.TemporaryDirectory() as folder:
        write_frames(Path(folder), strategy_clip())
        state = model.init_state(folder)

    def outputs() -> dict[int, Any]:
        return {**state["output_dict"]["cond_frame_outputs"], **state["output_dict"]["non_cond_frame_outputs"]}

    def stored() -> tuple[Named, Named]:
        maps, pointers = ([(0, t, one[k]) for t, one in outputs().items()] for k in ("maskmem_features", "obj_ptr"))
        return maps, pointers

    recorder = Recorder(model, 1, stored, lambda: state["constants"]["maskmem_pos_enc"][-1])
    track, motion = model.track_step, np.zeros((FRAMES, 1, 9))

    def step(frame_idx: int, **kwargs: Any) -> Any:
        recorder.frame = frame_idx
        found = track(frame_idx=frame_idx, **kwargs)
        motion[frame_idx, 0] = [*(np.zeros(8) if model.kf_mean is None else model.kf_mean), model.stable_frames]
        return found

    model.track_step = step
    model.add_new_points_or_box(state, 0, 0, **recipe.prompt_of(0))
    for _ in model.propagate_in_video(state):
        pass
    for t in range(0, FRAMES, EVERY):
        recorder.arrays["logits"][t // EVERY, 0] = outputs()[t]["pred_masks"][0, 0]
    return {**recorder.arrays, "state": motion}


def d4sm(recipe: Recipe) -> dict[str, Any]:
    # The part of vot-toolkit that is used: of a box and another one around it, the share of their areas.
    raster = types.SimpleNamespace(calculate_overlaps=lambda a, b: [a[0][2] * a[0][3] / (b[0][2] * b[0][3])])
    shapes = types.SimpleNamespace(Rectangle=lambda x, y, w, h: (x, y, w, h))
    for name, part in (("", None), (".raster", raster), (".shapes", shapes)):
        sys.modules[f"vot.region{name}"] = part or types.ModuleType("vot.region")
    sys.modules["vot"] = types.ModuleType("vot")
    import tracking_wrapper_mot as module

    class OnCpu(Float32Memory):
        def device(self, name: str) -> torch.device:
            return torch.device("cpu")

    torch.Tensor.cuda = lambda self: self
    module.torch, build, fill = OnCpu(), module.build_sam, module.fill_holes_in_mask_scores
    module.build_sam = lambda name, _: build(name, None, device="cpu", hydra_overrides_extra=list(NANO))
    tracker = module.DAM4SAMMOT("tiny")
    tracker.input_image_size = IMAGE_SIZE
    recipe.weights(tracker.sam)

    def stored() -> tuple[Named, Named]:
        kinds = (tracker.per_object_outputs_all, "maskmem_features"), (tracker.per_object_obj_ptr, "obj_ptr")
        maps, pointers = (
            [(number - 1, one["frame_idx"], one[key]) for number, every in lists.items() for one in every]
            for lists, key in kinds
        )
        return maps, pointers

    recorder = Recorder(tracker.sam, recipe.objects, stored, lambda: tracker.output_dict["maskmem_pos_enc"])
    added = np.zeros((FRAMES, recipe.objects, 1))

    def shown(masks: torch.Tensor, most: int) -> torch.Tensor:
        masks = fill(masks, most)
        if recorder.frame % EVERY == 0 and recorder.frame > 0:
            recorder.arrays["logits"][recorder.frame // EVERY] = masks[:, 0]
        return masks

    module.fill_holes_in_mask_scores = shown
    images = [Image.fromarray(image) for image in strategy_clip()]
    tracker.initialize(images[0], [{"mask": disc(0, obj)} for obj in range(recipe.objects)])
    recorder.arrays["logits"][0] = [one[0]["pred_masks"][0, 0] for one in tracker.per_object_outputs_all.values()]
    for t in range(1, FRAMES):
        recorder.frame = t
        tracker.track(images[t])
        added[t, :, 0] = [last == t for last in tracker.last_added]
    return {**recorder.arrays, "state": added}


if __name__ == "__main__":
    torch.set_num_threads(1)
    recipe = RECIPES[sys.argv[1]]
    with torch.no_grad():
        arrays = {"samurai": samurai, "d4sm": d4sm}[recipe.tracker](recipe)
    arrays["masks"] = beside_outlines(arrays["masks"])
    FOLDER.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(FOLDER / f"{sys.argv[1]}.npz", **arrays)
