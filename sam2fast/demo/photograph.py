"""A photograph that may be on this machine already."""

from importlib.util import find_spec
from pathlib import Path

# Of the pictures that scikit-image carries in its package: a cup of espresso, CC0, by Rachel Michetti; 600x400 pixels.
FILE = "coffee.png"
POINT = (290, 150)  # on the espresso


def find_photograph() -> Path | None:
    """The photograph in the installed scikit-image; None without it. Nothing is imported or downloaded."""
    spec = find_spec("skimage")
    folders = [] if spec is None else spec.submodule_search_locations or []
    files = (Path(folder) / "data" / FILE for folder in folders)
    return next((file for file in files if file.is_file()), None)
