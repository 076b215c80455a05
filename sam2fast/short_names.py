"""Names with room for what is added to them while a file is written; a leaf that anybody may import."""

import hashlib
import os
from pathlib import Path

MOST_BYTES = 255  # of a name, where files usually lie
MOST_ADDED = 32  # bytes: dots, a number and a word, and what torch's profiler adds in its turn
MOST_SUFFIX = 32  # bytes; what is longer nobody goes by


def shortened(name: str) -> str:
    """``name``, cut if what is added to it would make it too long for a file's name.

    Its suffix stays, since writers go by it. A digest of the whole name takes the place of what is cut off: two names
    that begin alike stay apart, so that nobody takes another's file for what is left of one's own.
    """
    whole = os.fsencode(name)
    if len(whole) <= MOST_BYTES - MOST_ADDED:
        return name
    suffix = Path(name).suffix
    if len(os.fsencode(suffix)) > MOST_SUFFIX:
        suffix = ""
    ending = f"~{hashlib.sha256(whole).hexdigest()[:16]}{suffix}"
    stem = name.removesuffix(suffix)
    # By characters: half of one is refused by some systems.
    while len(os.fsencode(stem + ending)) > MOST_BYTES - MOST_ADDED:
        stem = stem[:-1]
    return stem + ending
