"""Wrong usage and unusable inputs, in every command: the error says what is wrong, and no file is written."""

import json
import os
import shlex

import pytest
from file_contents import files_of
from PIL import Image

VOS = "vos --videos videos --masks masks --out out --model nano"
REFUSED = [
    ("segment image.png", 2, "--point, --box, --mask, --masks, --prompts or --boxes-from"),
    ("segment image.png --point 5", 2, "'5' is not [NAME,]X,Y[,LABEL]"),
    ("segment image.png --point 500 375", 2, "; give numbers joined by commas, without spaces"),
    ("segmnt image.png", 2, "No such command 'segmnt'. Did you mean 'segment'?"),
    ("segment text.mp4 --point 5,5 --model nano", 1, "text.mp4 is a video: use `sam2fast track`"),
    ("masks photo.HEIC --model nano", 1, "photo.HEIC: HEIC is not read; convert it to JPEG"),
    ("masks raw --model nano", 1, "; skipped 2 files of other kinds: a.HEIC, b.txt"),
    ("track text.mp4 --point 300,200", 2, "; frame and object are missing: 0,1,300,200"),
    ("segment image.png --point 1,2,7", 2, "the label is 7"),
    ("segment image.png --box 1,2,3", 2, "not [NAME,]X0,Y0,X1,Y1"),
    ("segment image.png --box 1,1,9,9 --box 2,2,8,8", 2, "or name the objects: --box NAME,X0,Y0,X1,Y1"),
    ("segment image.png --box a,1,1,9,9 --box a,2,2,8,8", 2, "the prompt for object 'a' has two boxes; give one"),
    ("segment image.png --point 5,5 --box cup,1,1,9,9", 2, "some prompts have a name and some have none"),
    ("segment image.png --prompts empty.txt", 1, "empty.txt is not valid JSON"),
    ("segment image.png --boxes-from outside.txt", 1, "outside.txt, line 1: 'a' is no line of YOLO"),
    ("segment image.png --boxes-from many.json", 1, "many.json is not COCO's format"),
    ("segment *.gif --point 1,1 --model nano", 1, "sam2fast: no file matches '*.gif'\n"),
    ("segment rtsp://me:no@host/x --point 1,1 --model nano", 1, "rtsp://host/x cannot be read: expected a file"),
    ("segment nowhere.png --point 1,1 --model nano", 1, "no file 'nowhere.png'"),
    ("segment image.png --mask nowhere.png --model nano", 1, "no file 'nowhere.png'"),
    ("segment image.png --mask black.png --model nano", 1, "black.png is empty"),
    ("segment image.png --point 1,1 --model nano --out image.png", 1, "'image.png' is a file"),
    ("segment frames/00000.jpg videos/a/00000.jpg --point 1,1", 2, "overwrite one another"),
    ("segment image.png --mask image_overlay.png --out .", 2, "would overwrite an input"),
    ("masks image.png --format json,video", 2, "no format 'video'"),
    ("masks image.png --points-per-side 4 --crops 2 --crop-points-downscale 3", 2, "crop layer 2"),
    ("masks image.png --model nano --nms-thresh nan", 1, "box_nms_thresh must be a number"),
    ("masks nowhere.png --model nano", 1, "sam2fast: no file 'nowhere.png'\n"),
    ("masks empty --model nano", 1, "in the folder empty"),
    ("masks images --out images --model nano", 2, "choose another --out folder"),
    ("masks image.png image_overlay.png --out . --model nano", 2, "would overwrite an input"),
    ("masks frames/00000.jpg videos/a/00000.jpg --model nano", 2, "overwrite one another"),
    (f"{VOS} --sam2_cfg nano", 2, "--model and --sam2_cfg are the same"),
    (f"{VOS} --score-thresh -1024", 2, "expected more than -1024"),
    (f"{VOS} --list empty.txt", 1, "no names in "),
    (f"{VOS} --list outside.txt", 1, "'../b' is no name of a video"),
    (f"{VOS} --videos empty", 1, "expected a folder of frames for each, or video files"),
    (f"{VOS} --checkpoint none.pt", 3, "none.pt"),
    (f"{VOS} --overwrite --out videos", 2, "choose another --out folder"),
    ("evaluate --gt masks", 2, "--pred"),
    ("evaluate --gt a --gt b --pred c --pred d --csv e", 2, "--csv is for one pair"),
    ("evaluate --gt nowhere --pred masks", 1, "the folder 'nowhere' cannot be read: No such file or directory"),
    ("evaluate-images images --clicks 1,x", 2, "'1,x' is not a list of integers from 1"),
    ("evaluate-images images --box-noise 0.1", 2, "--box-noise needs --box"),
    ("evaluate-images images --masks nowhere", 1, "no file or folder 'nowhere'"),
    ("evaluate-images images", 1, "has neither a JSON file for an image nor PNGs"),
    ("evaluate-images images --masks masks --format sa1b", 1, "no image in images has masks of the format sa1b"),
    ("evaluate-images images --masks labels --model nano --min-area 999", 1, "no image has an object of 999 pixels"),
    ("evaluate-images images --masks labels --model nano --device cuda:99", 1, "cuda"),
    ("evaluate-images images --masks labels --checkpoint none.pt", 3, "none.pt"),
    ("export --dtype float16 --device cpu --model nano", 1, "float16 on the CPU"),
    ("export --model nano --out images", 1, "'images' is not empty"),
    ("export --model nano --out link", 1, "sam2fast: the output folder 'link' is a link to no folder\n"),
    ("synthesize --teacher x.pt", 2, "--images"),
    ("synthesize --images images", 2, "--teacher"),
    ("synthesize --teacher x.pt --images nowhere", 1, "no folder 'nowhere'"),
    ("synthesize --teacher x.pt --images images", 3, "no checkpoint file"),
    ("synthesize --out images", 1, "not empty"),
    ("synthesize --out images --resume", 1, "images"),
    ("demo --model nano --image image.png", 2, "--image and --point go together"),
    ("demo --model nano --image nowhere.png --point 1,2", 1, "no file 'nowhere.png'"),
    ("demo --model nano --image image.png --point 1,2 --out .", 2, "a result might overwrite image.png"),
    ("demo --model nano --out image.png", 1, "the output folder 'image.png' is a file"),
    ("demo --model tiny", 3, "sam2.1_hiera_tiny.pt"),
    ("profile rtsp://camera", 1, "No such file or directory: 'rtsp:/camera'"),
    ("profile image.png --trace image.png", 2, "does not end with .json or .json.gz"),
    ("profile image.png --trace nowhere/t.json", 1, "nowhere'"),
    ("track frames", 2, "no prompts; give"),
    ("track frames --point 0,1,5,5 --format json,video", 2, "no format 'video'"),
    ("track frames --point 0,1,5,5 --stream --reverse", 2, "--reverse needs the whole video"),
    ("serve --in-browser --strategy samurai", 2, "--strategy is for a server that runs the model"),
    ("serve --strategy sam2long", 2, "the demo shows each frame when it is tracked"),
    ("track frames --point 0,1,5,5 --strategy sam2long --reverse", 2, "decides about masks when a pass ends"),
    ("track frames --point 0,1,5,5 --strategy sam", 2, "there is no strategy 'sam'; expected sam2, samurai, "),
    ("track frames --point 0,1,5,5 --max-frames 3", 2, "--max-frames goes with --stream"),
    ("track frames --point 0,1,5,5 --start 5 --end 4", 2, "--start 5 lies after --end 4"),
    ("track frames --prompts many.json --format png", 2, "256 objects"),
    ("track frames --mask 0,1,black.png", 1, "all of its pixels are black"),
    ("track frames --mask 0,1,turned.png", 1, "is 24x32, but the video 32x24"),
    ("track frames --point 99,1,5,5", 1, "beyond the end of the video"),
    ("track frames --point 0,1,5,5 --out frames", 2, "would lie among the frames"),
    ("track overlay.mp4 --point 0,1,5,5 --out .", 2, "would overwrite the video"),
    ("track nowhere.mp4 --point 0,1,5,5", 1, "sam2fast: no file 'nowhere.mp4'\n"),
    ("track frames videos/a --point 0,1,5,5 --stream --reverse", 2, "--reverse needs the whole video"),
    ("track frames videos/../frames --point 0,1,99,5", 1, "the point 99,5 lies outside the video (32x24)"),
    ("track text.mp4 videos/a/../../overlay.mp4 masks/a/../text.mp4 --point 0,1,5,5", 1, "of 3 videos had problems"),
    ("track text.mp4 --point 0,1,5,5", 1, "text.mp4"),
    ("track empty --point 0,1,5,5", 1, "empty"),
    ("track camera:0 --point 0,1,5,5", 2, "give --stream"),
    ("track camera:x --point 0,1,5,5", 2, "names no camera"),
    ("dataset extract --videos empty --out out", 1, "no videos (.mp4) in"),
    ("dataset convert nowhere out --to davis", 1, "no file or folder 'nowhere'"),
    ("dataset convert davis davis --to ytvos", 2, "OUT is the folder of IN"),
    ("dataset convert davis out --to ytvos --video wolf", 2, "there is no video 'wolf' in"),
    ("dataset convert images out --to davis --from ytvos", 1, "expected Annotations/<video>/<frame>.png"),
    ("dataset convert text.mp4 out --to davis", 1, "is neither <video>_manual.json"),
    ("dataset convert davis images --to ytvos", 1, "is not empty"),
    ("dataset show davis --frames , --out out", 2, "--frames names no frame"),
]


@pytest.fixture
def unusable(inputs):
    """Files that no command can use as it is asked to."""
    Image.new("L", (32, 24)).save(inputs / "black.png")
    Image.new("L", (24, 32), 255).save(inputs / "turned.png")
    Image.open(inputs / "image.png").save(inputs / "image_overlay.png")
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


@pytest.mark.parametrize(("line", "code", "message"), REFUSED)
def test_refused(run, unusable, monkeypatch, line, code, message):
    if line.startswith("profile"):
        monkeypatch.setattr("sam2fast.cli.profile.choose_model", None)  # refused before any work
    monkeypatch.setattr("sam2fast.cli.track_run.build_sam2_video_predictor", None)
    before = files_of(unusable)
    result = run(*shlex.split(line))
    assert result.exit_code == code and result.stdout == "", result.stderr
    assert message in result.stderr or message in " ".join(result.stderr.split())
    assert files_of(unusable) == before
