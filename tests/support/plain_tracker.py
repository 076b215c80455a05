"""Whole videos by the official network, one object at a time, where a plain strategy decides.

It attends, decodes, and makes the pointers and memories that :mod:`plain_strategies` leaves to a network.
"""

import itertools
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from plain_distractors import PlainD4sm, PlainDam4sam
from plain_strategies import Attended, Decoded, PlainConfident, PlainSam2Long, PlainSamurai, enlarged
from sam2.modeling.sam2_utils import get_1d_sine_pe
from sam2.utils.misc import fill_holes_in_mask_scores
from video import float32_memory

HOLES = {PlainSamurai: 8, PlainD4sm: 8, PlainSam2Long: 0, PlainDam4sam: 0, PlainConfident: 0}  # largest that are filled


@dataclass
class Run:
    """What a strategy did with one object on all frames."""

    masks: list[Any] = field(default_factory=list)  # low-resolution logits (h, w), as they are shown
    attended: list[Any] = field(default_factory=list)  # from frame 1 on; a list of pathways for SAM2Long
    decided: list[Any] = field(default_factory=list)  # what ``track`` returned


@torch.no_grad()
def run(predictor: Any, folder: Path, strategy: Any, frames: int, **prompt: Any) -> Run:
    """Tracks what is prompted on the first of ``count`` frames by an official predictor and a plain strategy."""
    with float32_memory():
        tracker = PlainTracker(predictor, folder, HOLES[type(strategy)], getattr(strategy, "PRESENCE", 0.0))
        candidates = tracker.prompt(**prompt)
        if isinstance(strategy, PlainSam2Long):
            return _run_pathways(tracker, strategy, frames)
        if isinstance(strategy, PlainSamurai):
            strategy.prompt(0, candidates)
        elif isinstance(strategy, PlainConfident):
            strategy.prompt(0)
        found = Run([tracker.shown[0]])
        for t in range(1, frames):
            attended = strategy.attend(t)
            decoded, tokens, score = tracker.decode(t, attended, lambda frame: frame)
            decided = strategy.track(t, decoded)
            chosen, is_added = decided if isinstance(decided, tuple) else (decided, False)
            tracker.store(
                t, t, decoded, tokens, score, chosen, as_prompt=is_added and isinstance(strategy, PlainDam4sam)
            )
            found.masks.append(tracker.shown[t])
            found.attended.append(attended)
            found.decided.append(decided)
        return found


def _run_pathways(tracker: "PlainTracker", strategy: PlainSam2Long, frames: int) -> Run:
    strategy.prompt(0)
    found = Run()
    for t in range(1, frames):
        paths = range(1 if t == 1 else strategy.paths)
        attended = [strategy.attend(t, path) for path in paths]
        outputs = [
            tracker.decode(t, one, lambda frame, path=path: (frame, strategy.histories[path][frame]) if frame else 0)
            for path, one in zip(paths, attended, strict=True)
        ]
        kept = strategy.track(t, [decoded for decoded, _, _ in outputs])
        for slot, (parent, chosen) in enumerate(kept):
            tracker.store(t, (t, slot), *outputs[parent], chosen)
        found.attended.append(attended)
        found.decided.append(kept)
    found.masks = [tracker.shown[0], *(tracker.shown[key] for key in sorted(strategy.finish().items()))]
    return found


class PlainTracker:
    """The network's part; what is stored of a frame is found under its key, 0 for the prompted frame."""

    def __init__(self, predictor: Any, folder: Path, holes: int, presence: float) -> None:
        predictor.fill_hole_area = self.holes = holes
        self.model, self.presence = predictor, presence
        self.state = predictor.init_state(str(folder))
        self.memories: dict[Hashable, torch.Tensor] = {}
        self.pointers: dict[Hashable, torch.Tensor] = {}
        self.shown: dict[Hashable, torch.Tensor] = {}

    @torch.no_grad()
    def prompt(self, **prompt: Any) -> Decoded | None:
        """The official predictor's answer to a first prompt; the candidates where there are three."""
        seen: list[Any] = []
        hook = self.model.sam_mask_decoder.register_forward_hook(lambda module, args, found: seen.append(found))
        if "mask" in prompt:
            self.model.add_new_mask(self.state, 0, 0, **prompt)
        else:
            self.model.add_new_points_or_box(self.state, 0, 0, **prompt)
        hook.remove()
        self.model.propagate_in_video_preflight(self.state)
        first = self.state["output_dict_per_obj"][0]["cond_frame_outputs"][0]
        self.memories[0], self.pointers[0], self.shown[0] = (
            first["maskmem_features"], first["obj_ptr"], first["pred_masks"][0, 0],
        )  # fmt: skip
        self.cells = first["maskmem_pos_enc"][-1].flatten(2).permute(2, 0, 1)
        masks, ious, tokens, score = seen[-1]
        if "mask" in prompt:  # the official threshold is 0
            pointer = self.model.obj_ptr_proj(tokens[:, 0])
            self.pointers[0] = pointer if score > self.presence else self.model.no_obj_ptr.expand_as(pointer)
        return _decoded(masks, ious, score) if masks.shape[1] == 3 and "mask" not in prompt else None

    def decode(
        self, frame: int, attended: Attended, key: Callable[[int], Hashable]
    ) -> tuple[Decoded, torch.Tensor, torch.Tensor]:
        """Candidates, their tokens ``(1, 3, C)`` and the object score."""
        _, _, features, places, sizes = self.model._get_image_feature(self.state, frame, 1)
        memory, encoded, pointers = self._memory(attended, key)
        seen = self.model.memory_attention([features[-1]], memory, [places[-1]], encoded, pointers)
        image = seen.permute(1, 2, 0).view(1, -1, *sizes[-1])
        fine = [x.permute(1, 2, 0).view(1, -1, *size) for x, size in zip(features[:-1], sizes[:-1], strict=True)]
        nowhere = torch.zeros(1, 1, 2), -torch.ones(1, 1, dtype=torch.int32)
        sparse, dense = self.model.sam_prompt_encoder(points=nowhere, boxes=None, masks=None)
        masks, ious, tokens, score = self.model.sam_mask_decoder(
            image_embeddings=image,
            image_pe=self.model.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
            repeat_image=False,
            high_res_features=fine,
        )
        return _decoded(masks, ious, score), tokens, score

    def store(
        self,
        frame: int,
        key: Hashable,
        decoded: Decoded,
        tokens: torch.Tensor,
        score: torch.Tensor,
        chosen: int,
        as_prompt: bool = False,
    ) -> None:
        """Keeps the chosen candidate's memory, pointer and shown mask; ``as_prompt`` with a binary mask in memory."""
        present = decoded.score > self.presence
        pointer = self.model.obj_ptr_proj(tokens[:, chosen])
        self.pointers[key] = pointer if present else self.model.no_obj_ptr.expand_as(pointer)
        mask = torch.from_numpy(decoded.present(self.presence).masks[chosen])[None, None]
        side = self.model.image_size
        self.memories[key], _ = self.model._run_memory_encoder(
            self.state, frame, 1, torch.from_numpy(enlarged(mask[0].numpy(), (side, side)))[None], score, as_prompt
        )
        self.shown[key] = fill_holes_in_mask_scores(mask, self.holes)[0, 0] if self.holes else mask[0, 0]

    def _memory(self, attended: Attended, key: Callable[[int], Hashable]) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Tokens, their positions and how many are pointers'. A factor of keys is made part of the positions."""
        model, width = self.model, self.model.mem_dim
        tokens, places = [], []
        factors = itertools.chain(
            attended.memory_factors or [1.0] * len(attended.memories),
            attended.pointer_factors or [1.0] * len(attended.pointers),
        )
        for frame, row in attended.memories:
            tokens.append(self.memories[key(frame)].flatten(2).permute(2, 0, 1))
            places.append(self.cells + model.maskmem_tpos_enc[row])
        for frame, position in attended.pointers:
            tokens.append(self.pointers[key(frame)].reshape(-1, 1, width))
            code = model.obj_ptr_tpos_proj(get_1d_sine_pe(torch.tensor([position]), dim=model.hidden_dim))
            places.append(code.expand(len(tokens[-1]), 1, width))
        for i, factor in enumerate(factors):
            if factor != 1:
                places[i] = factor * (tokens[i] + places[i]) - tokens[i]
        count = sum(len(one) for one in tokens[len(attended.memories) :])
        return torch.cat(tokens), torch.cat(places), count


def _decoded(masks: torch.Tensor, ious: torch.Tensor, score: torch.Tensor) -> Decoded:
    return Decoded(masks[0].float().numpy(), ious[0].numpy(), score.item())
