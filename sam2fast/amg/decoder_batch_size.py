"""How many prompts on one image the decoder answers together."""

import torch

from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.tracking.recorders import memory_of_graphs

# Prompts that the decoder answers together on the CPU, several of its own groups: more only hold more logits.
CPU_PROMPTS = 16
# The decoder's working memory for one prompt, at most, in copies of the image embedding in fp32.
EMBEDDINGS_PER_PROMPT = 16
# Share of a GPU's free memory that the decoder may take.
MEMORY_SHARE = 0.7


def prompts_per_call(limit: int, model: SAM2Base) -> int:
    """How many prompts the decoder should answer together: at most ``limit``, and what fits into free GPU memory."""
    device = model.device
    if device.type == "cpu":
        return min(limit, CPU_PROMPTS)
    if device.type != "cuda":
        return limit
    free = torch.cuda.mem_get_info(device)[0]
    # What torch has reserved and does not use, but for what recorded graphs alone may use.
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free += max(0, unused - memory_of_graphs(device))
    embedding = 4 * model.hidden_dim * model.sam_image_embedding_size**2
    return max(1, min(limit, int(MEMORY_SHARE * free / (EMBEDDINGS_PER_PROMPT * embedding))))
