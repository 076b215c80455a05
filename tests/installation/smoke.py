"""Smoke test of the installed package in an empty folder: prints JSON, or fails. No asserts: it runs under -OO."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

HEIGHT, WIDTH, FRAMES = 128, 160, 3
LEAST_IOU = 0.85


def expect(condition, message):
    if not condition:
        raise SystemExit(f"smoke: {message}")


def truth(t=0):
    """The square's pixels in a frame."""
    import numpy as np

    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[32:96, 40 + 8 * t : 104 + 8 * t] = True
    return mask


def sample_image(t=0):
    """A bright square on grey, which moves to the right."""
    import numpy as np

    pixels = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    pixels[truth(t)] = (240, 200, 40)
    return pixels


def write_inputs(image, frames, masks):
    """Writes an image, a folder of frames, and one of their masks."""
    import numpy as np
    from PIL import Image

    for folder in (os.path.dirname(image) or ".", frames, masks):
        os.makedirs(folder, exist_ok=True)
    Image.fromarray(sample_image()).save(image)
    for t in range(FRAMES):
        Image.fromarray(sample_image(t)).save(f"{frames}/{t:05d}.jpg")
        Image.fromarray(truth(t).astype(np.uint8)).save(f"{masks}/{t:05d}.png")


def run(*arguments, codes=(0,)):
    """Runs ``sam2fast`` as a process, which must end with one of these exit codes and without a traceback."""
    program = str(Path(sys.executable).with_name("sam2fast"))
    done = subprocess.run([program, *arguments], capture_output=True, encoding="utf-8", errors="backslashreplace")
    is_expected = done.returncode in codes and "Traceback" not in done.stderr
    expect(is_expected, f"sam2fast {ascii(arguments)}: {done.returncode}\n{done.stderr}")
    return done


def iou(mask, expected):
    return float((mask & expected).sum() / (mask | expected).sum())


def installed():
    """Checks that the imported package is the installed one."""
    import sam2fast

    expect("site-packages" in sam2fast.__file__, f"imported from {sam2fast.__file__}")
    return sam2fast.__version__


def image(model):
    from sam2fast import SAM2ImagePredictor

    predictor = SAM2ImagePredictor(model)
    predictor.set_image(sample_image())
    masks, _, _ = predictor.predict(box=[38, 30, 106, 98], multimask_output=False)
    found = iou(masks[0].astype(bool), truth())
    expect(found > LEAST_IOU, f"an image's mask has an IoU of {found:.3f}")
    return round(found, 3)


def video(model):
    state = model.init_state([sample_image(t) for t in range(FRAMES)])
    model.add_new_points_or_box(state, 0, 1, box=[38, 30, 106, 98])
    tracked = model.propagate_in_video(state, progress=False)
    found = [iou((logits[0, 0] > 0).numpy(), truth(t)) for t, _, logits in tracked]
    expect(len(found) == FRAMES and min(found) > LEAST_IOU, f"a video's masks have IoUs of {found}")
    return round(min(found), 3)


def everything(model):
    from sam2fast import SAM2AutomaticMaskGenerator

    records = SAM2AutomaticMaskGenerator(model, points_per_side=4).generate(sample_image())
    best = max((iou(record["segmentation"], truth()) for record in records), default=0)
    expect(best > LEAST_IOU, f"the best of {len(records)} automatic masks has an IoU of {best:.3f}")
    return len(records)


def backends():
    """``auto`` computes on the CPU; ``triton``, forced, says why it cannot."""
    import torch

    from sam2fast.kernels import _dispatch
    from sam2fast.kernels.connected_components import connected_components

    masks = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    masks[0, 0, 1:3, 1:3] = masks[0, 0, 5:7, 5:7] = True
    labels, _ = connected_components(masks)
    expect(len(labels.unique()) == 3, "two islands are not two components")
    try:
        with _dispatch.backend("triton"):
            connected_components(masks)
    except RuntimeError as error:
        return str(error).partition("but ")[2].partition(";")[0]
    raise SystemExit("smoke: a kernel ran on the CPU")


def command():
    """Runs ``sam2fast env`` and ``sam2fast segment`` as processes."""
    from PIL import Image

    found = json.loads(run("env", "--json").stdout)
    broken = {name: facts for name, facts in found.items() if "error" in facts}
    expect(not broken, f"sam2fast env: {broken}")
    Image.fromarray(sample_image()).save("square.png")
    run("segment", "square.png", "--point", "72,64", "--model", "nano", "--out", "found")
    written = sorted(os.listdir("found"))
    expect(written == ["square.json", "square_mask.png", "square_overlay.png"], f"sam2fast segment wrote {written}")
    return "ok"


def main():
    facts = {"sam2fast": installed(), "python": sys.version.split()[0]}
    import torch

    from sam2fast import SAM2VideoPredictor

    facts["torch"] = torch.__version__
    facts["triton"] = importlib.util.find_spec("triton") is not None
    model = SAM2VideoPredictor.from_pretrained("sam2fast/nano", device="cpu")
    facts |= {"image": image(model), "video": video(model), "masks": everything(model)}
    facts |= {"backend": backends(), "command": command()}
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
