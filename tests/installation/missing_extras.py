"""Each feature that needs an extra, where none is installed: one line that says which, and nothing half-done.

Runs beside smoke.py in an environment of the core alone.
"""

import json
import subprocess
import sys
from pathlib import Path

from smoke import expect, picture, truth

# The command's arguments, and the extra that it must name.
COMMANDS = {
    "track film.mp4 --point 0,1,72,64": "video",
    "vos --videos films --masks masks --out out": "video",
    "dataset extract --videos films --out out": "video",
    "serve": "serve",
    "segment square.png --point 72,64 --ray local": "cluster",
    "masks square.png --ray auto": "cluster",
    "evaluate-images pictures --masks polygons.json --clicks 1": "eval",
    "evaluate-images pictures --masks polygons.json --box": "eval",
    "profile square.png --picture profile.png": "profile",
}
# What is done with less, and the extra that a note names.
NOTES = {
    "track frames --point 0,1,72,64 --out tracked": "video",
}
LIBRARY = {
    "from sam2fast import SAM2VideoPredictor as V; V.from_pretrained('sam2fast/nano').init_state('film.mp4')": "video",
    "from sam2fast.video_io import read_frames; read_frames(0, 256).__enter__()": "video",
    "from pathlib import Path; from sam2fast.training.reporting import Reporter; Reporter(Path('logs'))": "train",
    "from sam2fast.demo.film import encode_film; encode_film([])": "video",
    "from sam2fast.profiling.report import draw; draw(None)": "profile",
    "from sam2fast.io.polygons import rasterise_polygons as f; f([[0, 0, 9, 0, 9, 9]], (9, 9))": "eval",
}


def main():
    make_inputs()
    program = str(Path(sys.executable).with_name("sam2fast"))
    for line, extra in COMMANDS.items():
        done = subprocess.run([program, *line.split()], capture_output=True, encoding="utf-8")
        said = [row for row in done.stderr.splitlines() if row.startswith("sam2fast: ") and " note: " not in row]
        expect(done.returncode == 1 and len(said) == 1, f"sam2fast {line}: {done.returncode}\n{done.stderr}")
        expect(f"sam2fast[{extra}]" in said[0], f"sam2fast {line}: {said[0]}")
    for line, extra in NOTES.items():
        done = subprocess.run([program, *line.split()], capture_output=True, encoding="utf-8")
        expect(done.returncode == 0 and f"sam2fast[{extra}]" in done.stderr, f"sam2fast {line}: {done.stderr}")
    for code, extra in LIBRARY.items():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
        last = done.stderr.splitlines()[-1] if done.stderr else "nothing"
        expect(last.startswith("ImportError: ") and f"sam2fast[{extra}]" in last, f"{code}: {last}")
    print(f"{len(COMMANDS) + len(NOTES) + len(LIBRARY)} features name their extra")


def make_inputs():
    """A picture, frames, masks, polygons, and what looks like a film."""
    import numpy as np
    from PIL import Image

    for folder in ("frames", "masks/film", "pictures", "films"):
        Path(folder).mkdir(parents=True, exist_ok=True)
    for t in range(3):
        Image.fromarray(picture(t)).save(f"frames/{t:05d}.jpg")
        Image.fromarray(truth(t).astype(np.uint8)).save(f"masks/film/{t:05d}.png")
    Image.fromarray(picture()).save("square.png")
    Image.fromarray(picture()).save("pictures/square.jpg")
    for film in ("film.mp4", "films/film.mp4"):
        Path(film).write_bytes(b"\0\0\0\x18ftypmp42" + bytes(100))
    height, width = truth().shape
    corners = [40, 32, 104, 32, 104, 96, 40, 96]
    document = {
        "images": [{"id": 1, "file_name": "square.jpg", "height": height, "width": width}],
        "categories": [{"id": 1, "name": "square"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": [corners]}],
    }
    Path("polygons.json").write_text(json.dumps(document), encoding="utf-8")


if __name__ == "__main__":
    main()
