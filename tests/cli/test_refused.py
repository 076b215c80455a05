"""Wrong usage and unusable inputs, in every command: the error says what is wrong, and no file is written."""

import json
import os
import shlex
import sys

import numpy as np
import pytest
from file_contents import files_of
from PIL import Image

CLICK = "image.png --point 1,1 --model nano"
COMPARE = "compare image.png --model nano --with"
IMAGES = "evaluate-images images --model nano"
TRACK = "track frames --point 0,1,5,5"
VOS = "vos --videos videos --masks masks --out out --model nano"
# Command line, exit code, a part of the message.
REFUSED = [
    ("segmnt image.png", 2, "Did you mean 'segment'?"),
    ("--install-completion", 1, "tcsh; completion is for bash"),
    ("segment image.png", 2, "--point, --box, --mask, --masks, --prompts or --boxes-from"),
    ("segment image.png --point 5", 2, "[NAME,]X,Y[,LABEL]"),
    ("segment image.png --point 500 375", 2, "without spaces"),
    ("segment image.png --point 1,2,7", 2, "the label is 7"),
    ("segment image.png --box 1,2,3", 2, "[NAME,]X0,Y0,X1,Y1"),
    ("segment image.png --box 1,1,9,9 --box 2,2,8,8", 2, "name the objects: --box NAME"),
    ("segment image.png --box a,1,1,9,9 --box a,2,2,8,8", 2, "'a' has two boxes; give one"),
    ("segment image.png --point 5,5 --box cup,1,1,9,9", 2, "others do not"),
    ("segment image.png --prompts empty.txt", 1, "empty.txt is not valid JSON"),
    ("segment image.png --boxes-from outside.txt", 1, "outside.txt, line 1"),
    ("segment image.png --boxes-from many.json", 1, "not COCO's format"),
    ("segment image.png --box 5,2,5,4", 2, "no area; expected X0 < X1 and Y0 < Y1"),
    ("segment image.png --point 4099200,500", 1, "point 4099200,500 lies outside image.png"),
    ("segment image.png --boxes-from empty", 1, "no files of boxes"),
    ("segment text.mp4 --point 5,5 --model nano", 1, "use `sam2fast track`"),
    ("segment *.gif --point 1,1 --model nano", 1, "sam2fast: no file matches '*.gif'\n"),
    ("segment rtsp://me:no@host/x --point 1,1 --model nano", 1, "rtsp://host/x cannot be read"),
    ("segment nowhere.png --point 1,1 --model nano", 1, "no file 'nowhere.png'"),
    ("segment image.png --mask nowhere.png --model nano", 1, "no file 'nowhere.png'"),
    ("segment image.png --mask black.png --model nano", 1, "black.png is empty"),
    ("segment image.png --mask labels.png --model nano", 1, "labels.png:3 (3, 7)"),
    (f"segment {CLICK} --out image.png", 1, "'image.png' is a file"),
    ("segment frames/00000.jpg videos/a/00000.jpg --point 1,1", 2, "overwrite one another"),
    ("segment image.png --mask image_overlay.png --out .", 2, "would overwrite an input"),
    (f"segment {CLICK} --json --jsonl", 2, "--jsonl prints lines"),
    (f"segment {CLICK} --quiet --progress", 2, "contradict"),
    *((f"segment images frames --point 9,9 --model nano --device {d}", 1, "") for d in ("cpu,cuda:7", "all")),
    ("segment images frames --point 9,9 --model nano --device cpu,no", 2, "'no' is not a device"),
    (f"segment {CLICK} --device cpu,", 2, "'' is not a device"),
    ("serve --device gpu", 2, "'gpu' is not a device"),
    ("synthesize --device gpu --out out", 2, "'gpu' is not a device"),
    ("masks photo.HEIC --model nano", 1, "photo.HEIC cannot be read as an image"),
    ("masks raw --model nano", 1, "left out: 1 file (its type is .txt; raw/b.txt)"),
    ("masks image.png --format json,video", 2, "no format 'video'"),
    ("masks image.png --tolerance inf --model nano", 2, "inf is not finite"),
    ("masks image.png --format yolo-seg --model nano", 1, "sam2fast[polygons]"),
    ("masks image.png --points-per-side 4 --crop-n-layers 2 --crop-n-points-downscale-factor 3", 2, "crop layer 2"),
    ("masks image.png --model nano --box-nms-thresh nan", 1, "box_nms_thresh must be a number"),
    ("masks empty --model nano", 1, "in the folder empty"),
    ("masks images --out images --model nano", 2, "choose another --out folder"),
    ("masks image.png image_overlay.png --out . --model nano", 2, "would overwrite an input"),
    ("masks frames/00000.jpg videos/a/00000.jpg --model nano", 2, "overwrite one another"),
    ("compare image.png --point 1,2 --model nano", 2, "--with"),
    (f"{COMPARE} model=nano", 2, "--point or --box"),
    (f"{COMPARE} size=3 --point 1,2", 2, "'size=3' is not model=... or checkpoint=..."),
    (f"{COMPARE} dtype=int8 --point 1,2", 2, "no dtype 'int8'"),
    (f"{COMPARE} strategy=best --point 1,2", 2, "no strategy 'best'"),
    (f"{COMPARE} model=nano --point 0,1,1,2", 2, "'--point'"),
    (f"{COMPARE} strategy=samurai --point 1,2", 2, "strategies are for videos"),
    (f"{COMPARE} model=nano --box 1,1,9,9 --box 2,2,8,8", 2, "one --box"),
    (f"{COMPARE} device=cuda:99 --point 1,2", 1, "cuda"),
    (f"{COMPARE} device=tpu --point 1,2", 1, "tpu"),
    (f"{COMPARE} dtype=bfloat16 --point 32.5,9", 1, "32.5,9 lies outside"),
    (f"{VOS} --sam2_cfg nano", 2, "--sam2_cfg are the same"),
    (f"{VOS} --score-thresh -1024", 2, "expected more than -1024"),
    (f"{VOS} --list empty.txt", 1, "no names in "),
    (f"{VOS} --list outside.txt", 1, "'../b' is not a video name"),
    (f"{VOS} --videos empty", 1, "expected a folder of frames for each"),
    (f"{VOS} --checkpoint none.pt", 3, "none.pt"),
    (f"{VOS} --overwrite --out videos", 2, "choose another --out folder"),
    ("evaluate --gt masks", 2, "--pred"),
    ("evaluate --gt a --gt b --pred c --pred d --csv e", 2, "--csv is for one pair"),
    ("evaluate --gt a --gt b --pred c", 2, "give one --pred for each --gt"),
    ("evaluate --gt nowhere --pred masks", 1, "the folder 'nowhere' cannot be read: No such file or directory"),
    (f"{IMAGES} --clicks 1,x", 2, "list of integers from 1"),
    (f"{IMAGES} --box-noise 0.1", 2, "--box-noise needs --box"),
    (f"{IMAGES} --masks nowhere", 1, "no file or folder 'nowhere'"),
    (IMAGES, 1, "neither a JSON file for an image nor PNGs"),
    (f"{IMAGES} --masks masks --format sa1b", 1, "the format sa1b"),
    (f"{IMAGES} --masks labels --min-area 999", 1, "999 pixels"),
    (f"{IMAGES} --masks labels --device cuda:99", 1, "cuda"),
    (f"{IMAGES} --masks labels --checkpoint none.pt", 3, "none.pt"),
    ("evaluate-images sa1b --skip-unmasked --out sa1b/a.csv --model nano", 2, "would overwrite an input"),
    ("export --dtype float16 --device cpu --model nano", 1, "float16 on the CPU"),
    ("export --model nano --out images", 1, "'images' is not empty"),
    ("export --model nano --out link", 1, "'link' is a link, but not to a folder"),
    ("export --model nano --format onnx --aot", 2, "--aot is for --format torch"),
    ("export --model nano --format onnx --prompts 1", 2, "--prompts is for --format torch"),
    ("export --model nano --format web --prompts 1", 2, "--prompts is for --format torch"),
    ("export --model nano --format onnx --device cuda", 2, "--device cuda is for --format torch"),
    ("export --model nano --format onnx --dtype bfloat16", 2, "choose float32, float16 or int8"),
    ("export --model nano --dtype int8", 2, "int8 is for --format onnx"),
    ("export --model nano --format tflite", 2, "'tflite' is not one of"),
    ("synthesize --teacher x.pt", 2, "--images"),
    ("synthesize --images images", 2, "--teacher"),
    ("synthesize --teacher x.pt --images nowhere", 1, "no folder 'nowhere'"),
    ("synthesize --teacher x.pt --images images", 3, "no checkpoint file"),
    ("synthesize --out images", 1, "not empty"),
    ("demo --model nano --image image.png", 2, "--image and --point go together"),
    ("demo --model nano --image nowhere.png --point 1,2", 1, "no file 'nowhere.png'"),
    ("demo --model nano --image image.png --point 1,2 --out .", 2, "might overwrite image.png"),
    ("demo --model nano --out image.png", 1, "'image.png' is a file"),
    ("demo --model tiny", 3, "sam2.1_hiera_tiny.pt"),
    ("profile rtsp://camera", 1, "No such file or directory: 'rtsp:/camera'"),
    ("profile image.png --trace image.png", 2, ".json or .json.gz"),
    ("profile image.png --trace nowhere/t.json", 1, "nowhere'"),
    ("serve --in-browser --strategy samurai", 2, "--strategy is for a server that runs the model"),
    ("serve --in-browser --quiet --image-size 256 --checkpoint nowhere.pt", 3, "no checkpoint file 'nowhere.pt'"),
    ("serve --strategy sam2long", 2, "the demo shows each frame when it is tracked"),
    ("track frames", 2, "no prompts; give"),
    ("track text.mp4 --point 300,200", 2, "missing: 0,1,300,200"),
    (f"{TRACK} --format json,video", 2, "no format 'video'"),
    (f"{TRACK} --format yolo-seg", 1, "sam2fast[polygons]"),
    (f"{TRACK} --stream --reverse", 2, "--reverse needs the whole video"),
    (f"{TRACK} --strategy sam2long --reverse", 2, "when a pass ends"),
    (f"{TRACK} --strategy sam", 2, "no strategy 'sam'; expected sam2, samurai, "),
    (f"{TRACK} --max-frames 3", 2, "--max-frames needs --stream"),
    (f"{TRACK} --start 5 --end 4", 2, "--start 5 lies after --end 4"),
    (f"{TRACK} --start 1", 1, "outside of the frames to be tracked"),
    (f"{TRACK} --device cpu,cpu", 2, "track_videos"),
    ("track frames --mask 0,1,black.png", 1, "all of its pixels are black"),
    ("track frames --mask 0,1,turned.png", 1, "is 24x32, but the video 32x24"),
    ("track frames --mask 0,3,labels.png", 1, "labels.png:3 (3, 7), take all by --masks"),
    ("track frames --mask 0,3,none.png:3", 1, "none.png'"),
    ("track frames --masks 0,labels.png --mask 0,3,labels.png:3", 2, "object 3 on frame 0 has two masks"),
    ("track frames --masks labels.png", 2, "FRAME,FILE"),
    ("track frames --point 99,1,5,5", 1, "beyond the end of the video"),
    (f"{TRACK} --out frames", 2, "would lie among the frames"),
    ("track overlay.mp4 --point 0,1,5,5 --out .", 2, "would overwrite the video"),
    ("track nowhere.mp4 --point 0,1,5,5", 1, "sam2fast: no file 'nowhere.mp4'\n"),
    ("track frames videos/../frames --point 0,1,99,5", 1, "99,5 lies outside the video (32x24 pixels)"),
    ("track text.mp4 videos/a/../../overlay.mp4 masks/a/../text.mp4 --point 0,1,5,5", 1, "of 3 videos had problems"),
    ("track text.mp4 --point 0,1,5,5", 1, "text.mp4"),
    ("track empty --point 0,1,5,5", 1, "empty"),
    ("track camera:0 --point 0,1,5,5", 2, "give --stream"),
    ("track camera:x --point 0,1,5,5", 2, "names no camera"),
    ("track camera:0 --point 0,1,5,5 --stream --format labelme", 2, "reads the video's frames again"),
    ("dataset extract --videos empty --out out", 1, "no videos (.mp4, .m4v"),
    ("dataset convert nowhere out --to davis", 1, "no file or folder 'nowhere'"),
    ("dataset convert davis davis --to ytvos", 2, "OUT is the folder of IN"),
    ("dataset convert davis out --to ytvos --video wolf", 2, "no video 'wolf' in"),
    ("dataset convert images out --to davis --from ytvos", 1, "expected Annotations/<video>/<frame>.png"),
    ("dataset convert text.mp4 out --to davis", 1, "neither <video>_manual.json"),
    ("dataset convert davis images --to ytvos", 1, "is not empty"),
    ("dataset show davis --frames , --out out", 2, "--frames names no frame"),
]


@pytest.fixture
def unusable(inputs):
    """Files that no command can use as it is asked to."""
    Image.new("L", (32, 24)).save(inputs / "black.png")
    Image.new("L", (24, 32), 255).save(inputs / "turned.png")
    Image.fromarray(np.repeat(np.uint8([[0, 3, 7]]), 8, 0).repeat(8, 1)).save(inputs / "labels.png")
    Image.open(inputs / "image.png").save(inputs / "image_overlay.png")
    (inputs / "sa1b").mkdir()
    Image.open(inputs / "image.png").save(inputs / "sa1b/a.jpg")
    mask = {"id": 1, "segmentation": {"size": [24, 32], "counts": [10, 758]}}
    (inputs / "sa1b/a.json").write_text(json.dumps({"image": {}, "annotations": [mask]}))
    (inputs / "empty").mkdir()
    (inputs / "empty.txt").write_text("\n")
    (inputs / "outside.txt").write_text("a\n../b\n")
    for name in ("text.mp4", "overlay.mp4"):
        (inputs / name).write_text("no video")
    (inputs / "raw").mkdir()
    for name in ("photo.HEIC", "raw/a.HEIC", "raw/b.txt"):
        (inputs / name).write_text("no image")
    entries = [{"frame": 0, "object": i, "points": [[5, 5]]} for i in range(256)]
    (inputs / "many.json").write_text(json.dumps({"prompts": entries}))
    os.symlink("nothing", inputs / "link")
    return inputs


@pytest.mark.parametrize(("line", "code", "message"), REFUSED, ids=[line for line, _, _ in REFUSED])
def test_refused(run, unusable, monkeypatch, line, code, message):
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    monkeypatch.setitem(sys.modules, "shapely", None)
    # Refused before any work.
    if line.startswith("profile"):
        monkeypatch.setattr("sam2fast.cli.options.choose_model", None)
    monkeypatch.setattr("sam2fast.cli.track_run.build_sam2_video_predictor", None)
    before = files_of(unusable)
    result = run(*shlex.split(line))
    assert result.exit_code == code and result.stdout == "", result.stderr
    assert message in result.stderr or message in " ".join(result.stderr.split())
    assert files_of(unusable) == before
