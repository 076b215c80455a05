"""Labels photographs with the objects, and parts of objects, that a model finds in them.

    python label_photographs.py CHECKPOINT OUT IMAGES...

The photographs in the folders IMAGES become videos of one frame, with one folder of masks per object, since masks may
overlap: ``OUT/JPEGImages/NAME/00000.jpg`` and ``OUT/Annotations/NAME/000/00000.png``. The same command again continues
after the last photograph.
"""

import argparse
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from PIL import Image

from sam2fast.build_sam import build_sam2
from sam2fast.datasets.davis import FRAMES, MASKS
from sam2fast.io.images import IMAGE_READ_ERRORS, SUFFIXES, write_jpeg
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.training.data.synthetic.pseudo_labels import ObjectSearch, find_objects, read_photograph

# Also smaller, larger and less certain masks than for cut-outs: parts and surroundings are wanted, too.
SEARCH = ObjectSearch(points_per_side=9, least_iou=0.8, least_stability=0.85, areas=(0.002, 0.7), most_overlap=0.8)
LONGEST_SIDE = 512


def label(images: Iterable[Path], predictor: SAM2ImagePredictor, out: Path) -> Iterator[tuple[Path, int]]:
    """The path of each photograph after its masks are written, and their number.

    Photographs that exist already, cannot be read or have no objects are skipped.
    """
    for path in images:
        name = path.name.replace(".", "_")
        frame = out / FRAMES / name / "00000.jpg"
        image = None
        if not frame.exists():
            with suppress(*IMAGE_READ_ERRORS):
                image = read_photograph(path, LONGEST_SIDE)
        found = [] if image is None else find_objects(image, predictor, SEARCH)
        for number, alpha in enumerate(found):
            file = out / MASKS / name / f"{number:03d}" / "00000.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(alpha > 127).save(file)
        if image is not None and found:
            # Last: the frame marks the masks as complete.
            frame.parent.mkdir(parents=True, exist_ok=True)
            partial = frame.with_suffix(".partial")
            write_jpeg(image, partial, quality=92)
            partial.rename(frame)
        yield path, len(found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--model", default="sam2_hiera_t", help="the checkpoint's configuration")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    model = SAM2ImagePredictor(build_sam2(options.model, options.checkpoint, device=options.device))
    paths = [path for folder in options.images for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES]
    for path, count in label(paths, model, options.out):
        print(f"{path}: {count}", flush=True)
