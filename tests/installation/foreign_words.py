"""File names in other scripts, in any locale, with smoke.py: commands work, or report their error in one line."""

import json
import os
import shutil
import sys
from pathlib import Path

from smoke import expect, run, write_inputs


def name(text):
    """A UTF-8 file name as this locale decodes it."""
    return os.fsdecode(text.encode("utf-8"))


IMAGES, SET, OUT = name("снимки 写真"), name("набор"), name("вывод")
VIDEOS, MASKS = f"{SET}/JPEGImages", f"{SET}/Annotations"
CAT, CLIP = name("кошка 猫"), name("Größe")
IMAGE = f"{IMAGES}/{CAT}.png"
# Outputs of each command.
COMMANDS = (
    (("segment", IMAGE, "--point", "72,64", "--out", OUT), f"{OUT}/{CAT}.json"),
    (("segment", IMAGE, "--point", "72,64", "--out", OUT, "--json"), f"{OUT}/{CAT}.json"),
    (("masks", IMAGES, "--points-per-side", "4", "--out", f"{OUT}/masks"), f"{OUT}/masks/masks.json"),
    (
        ("track", f"{VIDEOS}/{CLIP}", "--point", name("0,köttur,72,64"), "--out", f"{OUT}/track", "--show-ids"),
        f"{OUT}/track/overlay.mp4",
    ),
    (
        ("track", f"{OUT}/track/overlay.mp4", "--point", "0,1,72,64", "--out", f"{OUT}/again", "--format", "json"),
        f"{OUT}/again/masks.jsonl",
    ),
    (("track", f"{VIDEOS}/{CLIP}", "--prompts", "utf-8.json", "--out", f"{OUT}/file"), f"{OUT}/file/overlay.mp4"),
    (("vos", "--videos", VIDEOS, "--masks", MASKS, "--out", f"{OUT}/vos"), f"{OUT}/vos/{CLIP}/00002.png"),
    (("evaluate", "--gt", MASKS, "--pred", f"{OUT}/vos"), f"{OUT}/vos/results.csv"),
    (("dataset", "info", SET), None),
    (("dataset", "convert", SET, f"{OUT}/lines", "--to", "coco-jsonl"), f"{OUT}/lines/{CLIP}.jsonl"),
    (("profile", IMAGE, "--trace", f"{OUT}/profile.json", "--runs", "1"), f"{OUT}/profile.json"),
    (("synthesize", "--clips", "1", "--frames", "2", "--size", "64", "--out", f"{OUT}/clips"), f"{OUT}/clips"),
    (("convert", "nano.safetensors", f"{OUT}/{CAT}.pt"), f"{OUT}/{CAT}.pt"),
    (("segment", IMAGE, "--point", "72,64", "--checkpoint", f"{OUT}/{CAT}.pt", "--out", f"{OUT}/pt"), f"{OUT}/pt"),
    (("env",), None),
)
# Errors by wrong input: one line, whatever the locale can print.
REFUSED = (
    ("segment", f"{IMAGES}/{name('нет')}.png", "--point", "1,1"),
    ("segment", IMAGE, "--point", "1,1", "--model", name("модель")),
    ("segment", IMAGE, "--point", "1,1", "--checkpoint", name("веса.pt")),
    ("track", f"{VIDEOS}/{CLIP}", "--prompts", "lost.json", "--out", f"{OUT}/lost"),
    ("train", "-c", name("настройка")),
    ("evaluate", "--gt", MASKS, "--pred", name("пусто")),
)


def main():
    make_inputs()
    for arguments, file in COMMANDS:
        has_model = arguments[0] not in ("segment", "masks", "track", "vos", "profile") or "--checkpoint" in arguments
        done = run(*arguments, *(() if has_model else ("--model", "nano")))
        expect(file is None or os.path.exists(file), f"sam2fast {ascii(arguments)} did not write {ascii(file)}")
        if "--json" in arguments and arguments[0] == "segment":
            json.loads(done.stdout)
    for arguments in REFUSED:
        run(*arguments, codes=(1, 2, 3))
    configuration()
    print(f"{len(COMMANDS)} commands work and {len(REFUSED)} refuse, in {sys.getfilesystemencoding()}")


def configuration():
    """A configuration whose comments are in another script, under a name in another script."""
    from sam2fast.config import load_config, shipped_configs

    file = name("модель.yaml")
    text = shipped_configs()["nano/sam2fast_nano"].read_text(encoding="utf-8")
    Path(file).write_text("# Это модель.\n" + text, encoding="utf-8")
    expect(load_config(file, ["model.image_size=128"]).model.image_size == 128, "the override is lost")


def make_inputs():
    from sam2fast import nano

    write_inputs(IMAGE, f"{VIDEOS}/{CLIP}", f"{MASKS}/{CLIP}")
    os.mkdir(name("пусто"))
    shutil.copy(nano.WEIGHTS, "nano.safetensors")
    prompt = {"frame": 0, "object": "köttur 猫", "points": [[72, 64]], "labels": [1]}
    lost = {"frame": 0, "object": "кот", "mask": "потеряно.png"}
    for file, entry in (("utf-8.json", prompt), ("lost.json", lost)):
        Path(file).write_text(json.dumps({"prompts": [entry]}, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
