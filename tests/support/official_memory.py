"""The fused step on outputs in the official format."""

import torch

from sam2fast.modeling.memory_selection import MemoryRules, select_memories
from sam2fast.tracking.attending import attended_by_tables
from sam2fast.tracking.features import FrameFeatures
from sam2fast.tracking.memory_bank import StepTables
from sam2fast.tracking.step import encode_masks, fill_holes, predict


def memory_of(model, output_dict, frame, num_frames):
    """What one object attends to, as :class:`AttendedMemory`."""
    conditioning, tracked = (output_dict[f"{kind}_frame_outputs"] for kind in ("cond", "non_cond"))
    chosen = select_memories(frame, conditioning, tracked, num_frames, False, MemoryRules.of(model))
    outputs, device = {**tracked, **conditioning}, model.device
    pages = torch.cat([outputs[t]["maskmem_features"].to(device) for t, _ in chosen.memories])
    pointers = [outputs[t]["obj_ptr"].float() for t, _ in chosen.pointers]
    P = len(pointers)
    used = {
        "page_table": torch.arange(len(pages), dtype=torch.int32, device=device)[None],
        "page_time": torch.tensor([[row for _, row in chosen.memories]], dtype=torch.int32, device=device),
        "pointer_table": torch.arange(P, dtype=torch.int32, device=device)[None],
        "pointer_valid": torch.ones(1, P, dtype=torch.int32, device=device),
        "distance": torch.tensor([[float(d) for _, d in chosen.pointers]], device=device).reshape(1, P),
    }
    tables = StepTables(**{**dict.fromkeys(StepTables._fields, torch.zeros(1, 0, device=device)), **used})
    pool = torch.cat(pointers) if P else torch.zeros(1, model.hidden_dim, device=device)
    return attended_by_tables(model, pages.flatten(2).transpose(1, 2), pool, tables, num_frames, False, False)


def fused_step(model, image, output_dict, frame, num_frames, fp8=False):
    """One object on a frame ``image (1, 3, S, S)``: its mask, pointer and memory under the official keys."""
    *high_res, embedding = model.encode_image(image)
    features = FrameFeatures(embedding, high_res)
    found = predict(model, features, memory_of(model, output_dict, frame, num_frames), False, fp8=fp8)
    memory = encode_masks(model, features, found.mask, found.score, from_prompt=False)
    masks = fill_holes(found.mask, model.fill_hole_area)
    return {"pred_masks": masks, "obj_ptr": found.pointer, "maskmem_features": memory}
