"""Public names that are gone, and what replaces each; a leaf that anybody may import."""

# Full name -> what to use instead, as the end of a sentence.
REMOVED: dict[str, str] = {
    "sam2fast.exported.check_program": "artefacts are programs: load only those that you exported yourself",
    "sam2fast.environment": "use `sam2fast env --json`",
    "sam2fast.cluster.on_slurm": "use on_ray inside a SLURM job, or an array of commands; see docs/scale_out.md",
    "sam2fast.parallel.SpreadPredictor": "track each video on one device, and several videos with track_videos",
    "sam2fast.parallel.SpreadState": "track each video on one device, and several videos with track_videos",
}


def refuse_if_removed(module: str, name: str) -> None:
    """For a package's ``__getattr__``: says what replaces a name that was removed.

    Raises:
        ImportError: the name was removed; the message names the replacement. Not AttributeError, in whose place ``from
            module import name`` puts a message of its own.
    """
    if instead := REMOVED.get(f"{module}.{name}"):
        raise ImportError(f"{module}.{name} was removed in sam2fast 0.2; {instead}")
