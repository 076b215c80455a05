"""Which sound files are refused, and by whom: every other has to be accepted, or its reader is not tried at all."""

# By reader, the numbers of the files of its kind; whatever is not here is accepted.
_PLAYLISTS = (16, 17)
_NOT_OF_THE_MODEL = (2, 3, 6)  # nano's names, those of transformers, and others by a prefix
_NO_CONFIGURATION_OF_OURS = (0, 1, 4, 5, 6)
REFUSED: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("open_frames", "open_frames of bytes", "read_frames", "read_frames of a file object"), _PLAYLISTS),
    "film of training": _PLAYLISTS,
    # A picture with three channels has no labels.
    **dict.fromkeys(("labels of training", "label map", "DAVIS", "click labels"), (5,)),
    "masks of vos": (3, 5),  # nor has a palette room for ids that take 16 bits
    "load_checkpoint": _NOT_OF_THE_MODEL,
    "load_partial": _NOT_OF_THE_MODEL,
    "choose_config": _NO_CONFIGURATION_OF_OURS,
    "convert_checkpoint": (2, 3),  # not the whole of nano
    "training checkpoint": (0, 1, 2, 3, 5, 6),  # no training run's
    "load_checkpoint of safetensors": (1, 2, 3),  # as above, and adapters
    "choose_config of safetensors": (0, 3),
    "adapters": (0, 1, 2),  # whole models
    "config.json": (1,),  # another model's: the weights beside it are nano's
    # A video's state is no stream's, and the other way round.
    "load_state": (1,),
    "restore_stream": (0,),
    # JSON lines of a data set are no record of `track`, and a list of masks is no file of SA-V.
    **dict.fromkeys(("masks.jsonl", "masks.jsonl by frame"), (1,)),
    **dict.fromkeys(("SA-V", "SA-V as a layout"), (1,)),
}


def is_accepted(target: str, file: str) -> bool:
    """Whether a reader has to accept the sound file of this name; otherwise it has to refuse it."""
    return int(file) not in REFUSED.get(target, ())
