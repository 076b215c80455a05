"""The valid files that a reader must refuse. It must accept all others of its kind, or nothing is tested."""

# The numbers of the files by reader; all others are accepted.
_PLAYLISTS = (16, 17)
_NOT_OF_THE_MODEL = (2, 3)  # nano's names, and those of transformers
_NO_CONFIGURATION_OF_OURS = (0, 1, 4, 5, 6)
REFUSED: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("open_frames", "open_frames of bytes", "read_frames", "read_frames of a file object"), _PLAYLISTS),
    "video of training": _PLAYLISTS,
    # An image with three channels has no labels.
    **dict.fromkeys(("labels of training", "label map", "DAVIS", "click labels", "masks of vos"), (5,)),
    "load_checkpoint": _NOT_OF_THE_MODEL,
    "load_partial": _NOT_OF_THE_MODEL,
    "choose_config": _NO_CONFIGURATION_OF_OURS,
    "training checkpoint": (0, 1, 2, 3, 5, 6),  # not from a training run
    "read_checkpoint of safetensors": (3,),  # adapters
    "load_checkpoint of safetensors": (1, 2, 3, 4),  # as above, adapters, and one weight in int8
    "choose_config of safetensors": (0, 3, 4),
    "adapters": (0, 1, 2, 4),  # other weights
    "config.json": (1,),  # of another model: the weights beside it are nano's
    # States of videos and of streams differ.
    "load_state": (1,),
    "restore_stream": (0,),
    # JSON lines of a data set are not a record of `track`.
    **dict.fromkeys(("masks.jsonl", "masks.jsonl by frame"), (1,)),
}


def is_accepted(target: str, file: str) -> bool:
    """Returns True if a reader must accept the valid file of this name, and False if it must refuse the file."""
    return int(file) not in REFUSED.get(target, ())
