"""Features without their extra, run with smoke.py: one line names the extra, and no partial results are left."""

import json
import subprocess
import sys
from pathlib import Path

from smoke import HEIGHT, WIDTH, expect, run, write_inputs

# The command's arguments, and the extra that it must name.
COMMANDS = {
    "track video.mp4 --point 0,1,72,64": "video",
    "vos --videos videos --masks masks --out out": "video",
    "dataset extract --videos videos --out out": "video",
    "track frames --boxes-from det.txt": "detections",
    "segment white_is_zero.tif --point 72,64 --model nano": "images",
    "track scan.nii.gz --point 0,1,72,64": "medical",
    "serve": "serve",
    "label-studio --model nano": "label-studio",
    "mcp --model nano --root .": "mcp",
    "segment square.png --point 72,64 --ray local": "cluster",
    "masks square.png --ray auto": "cluster",
    "export --model nano --format onnx --out graphs": "onnx",
    "evaluate-images images --masks polygons.json --clicks 1": "eval",
    "evaluate-images images --masks polygons.json --box": "eval",
}
# It works with less, and a note names the extra.
NOTED, NOTED_EXTRA = "track frames --point 0,1,72,64 --out tracked", "video"
LIBRARY = {
    "from sam2fast import SAM2VideoPredictor as V; V.from_pretrained('sam2fast/nano').init_state('video.mp4')": "video",
    "from sam2fast.video_io import read_frames; read_frames(0, 256).__enter__()": "video",
    "from pathlib import Path; from sam2fast.training.reporting import Reporter; Reporter(Path('logs'))": "train",
    "from sam2fast.training.adapters import *; add_adapters(None, AdapterConf())": "adapters",
    "from sam2fast.demo.clip import encode_mp4; encode_mp4([])": "video",
    "from sam2fast.video_io import open_volume; open_volume('scan.nii.gz')": "medical",
    "import sam2fast.integrations.cvat": "cvat",
    "from sam2fast.io.rle import rasterise_polygons as f; f([[0, 0, 9, 0, 9, 9]], (9, 9))": "eval",
}


def main():
    make_inputs()
    for line, extra in COMMANDS.items():
        rows = run(*line.split(), codes=(1,)).stderr.splitlines()
        said = [row for row in rows if row.startswith("sam2fast: ") and " note: " not in row]
        expect(len(said) == 1 and f"sam2fast[{extra}]" in said[0], f"sam2fast {line}: {rows}")
    said = run(*NOTED.split()).stderr
    expect(f"sam2fast[{NOTED_EXTRA}]" in said, f"sam2fast {NOTED}: {said}")
    for code, extra in LIBRARY.items():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
        last = done.stderr.splitlines()[-1] if done.stderr else "nothing"
        expect(last.startswith("ImportError: ") and f"sam2fast[{extra}]" in last, f"{code}: {last}")
    print(f"{len(COMMANDS) + 1 + len(LIBRARY)} features name their extra")


def make_inputs():
    """An image, frames, masks, polygons, and what looks like a video."""
    write_inputs("square.png", "frames", "masks/video")
    write_inputs("images/square.jpg", "frames", "masks/video")
    Path("videos").mkdir()
    for video in ("video.mp4", "videos/video.mp4"):
        Path(video).write_bytes(b"\0\0\0\x18ftypmp42" + bytes(100))
    Path("scan.nii.gz").write_bytes(b"not read")
    write_white_is_zero(Path("white_is_zero.tif"))
    Path("det.txt").write_text("1,-1,40,32,64,64,1\n", encoding="utf-8")
    corners = [40, 32, 104, 32, 104, 96, 40, 96]
    document = {
        "images": [{"id": 1, "file_name": "square.jpg", "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 1, "name": "square"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": [corners]}],
    }
    Path("polygons.json").write_text(json.dumps(document), encoding="utf-8")


def write_white_is_zero(path):
    """A grey TIFF file of 16 bits in which 0 is white."""
    from PIL import Image

    Image.new("I;16", (WIDTH, HEIGHT)).save(path)
    photometric = bytes.fromhex("0601 0300 01000000")  # the tag, its type and its count
    path.write_bytes(path.read_bytes().replace(photometric + b"\1", photometric + b"\0"))


if __name__ == "__main__":
    main()
