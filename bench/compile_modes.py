"""What each way to run the image model costs before its first mask, and gives after it; each in processes of its own.

    python bench/compile_modes.py --model nano --model tiny --out bench/results

Ways: the ordinary predictor; with encoder and decoder through ``torch.compile``, first with an empty cache and then in
another process with a full one; on an artefact of exported programs; on one that AOTInductor compiled. All answer the
same box on the same picture, and are compared with the ordinary predictor. Models other than nano have drawn weights
unless ``--checkpoints`` names a folder with the official ones. Writes one JSON file, with a row for each way:

``compile_s``: what is done once: exporting or compiling in a process of its own; of ``torch.compile`` what the first
call takes longer than later ones. ``first_s``: from the beginning of loading to the first mask, torch being imported;
``load_s``, ``first_encode_s`` and ``first_mask_s`` are its parts. ``import_s``: importing what the way needs.
``median_s``, ``spread``: encoding and one prompt, later calls; ``encode_s`` and ``mask_s`` are the medians of the two.
``difference``: of the low-resolution logits and predicted IoUs, the larger
:func:`sam2fast.utils.testing.relative_error`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SUPPORT = str(Path(__file__).parents[1] / "tests" / "support")
WAYS = ("eager", "torch.compile, empty cache", "torch.compile, full cache", "exported", "AOTInductor")
LETTERS = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}
# Where compilers keep what they have made, headers among it.
CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TMPDIR")
BOX = [300, 200, 900, 700]
PARTS = ("image_encoder", "mask_decoder")


def prepare(model: str, checkpoint: str, dtype: str, folder: str, aot: bool) -> dict[str, float]:
    """Writes the artefact; seconds of that, without building the model."""
    import torch

    from sam2fast.build_sam import build_sam2
    from sam2fast.deploy.exported import write_artifact

    built = build_sam2(model, checkpoint, device="cpu", dtype=getattr(torch, dtype))
    start = time.perf_counter()
    write_artifact(built, folder, model, aot)
    return {"compile_s": time.perf_counter() - start}


def run(way: str, model: str, checkpoint: str, dtype: str, folder: str, runs: int, answers: str) -> dict[str, Any]:
    """Seconds of one way, from nothing."""
    start = time.perf_counter()
    import numpy as np
    import torch

    torch_s = time.perf_counter() - start
    start = time.perf_counter()
    if way in ("exported", "AOTInductor"):
        from sam2fast.deploy.exported import load_predictor
    else:
        from sam2fast.build_sam import build_sam2
        from sam2fast.sam2_image_predictor import SAM2ImagePredictor
    import_s = time.perf_counter() - start
    image = _picture()

    start = time.perf_counter()
    if way in ("exported", "AOTInductor"):
        predictor = load_predictor(folder)
    else:
        built = build_sam2(model, checkpoint, device="cpu", dtype=getattr(torch, dtype))
        if way.startswith("torch.compile"):
            from sam2fast.deploy.compilation import compile_model

            compile_model(built, PARTS)
        predictor = SAM2ImagePredictor(built)
    times = [time.perf_counter() - start, *_once(predictor, image)[0]]
    seconds = []
    for _ in range(runs):
        spent, answer = _once(predictor, image)
        seconds.append(spent)
    np.savez(answers, ious=answer[1], logits=answer[2])
    both = [sum(spent) for spent in seconds]
    names = ("load_s", "first_encode_s", "first_mask_s")
    return {
        "import_torch_s": torch_s,
        "import_s": import_s,
        **dict(zip(names, times, strict=True)),
        "first_s": sum(times),
        "median_s": statistics.median(both),
        "spread": [min(both), max(both)],
        "encode_s": statistics.median(spent[0] for spent in seconds),
        "mask_s": statistics.median(spent[1] for spent in seconds),
        "seconds": seconds,
    }


def _once(predictor: Any, image: Any) -> tuple[list[float], Any]:
    start = time.perf_counter()
    predictor.set_image(image)
    encoded = time.perf_counter()
    answer = predictor.predict(box=BOX)
    return [encoded - start, time.perf_counter() - encoded], answer


def _picture() -> Any:
    import numpy as np

    y, x = np.mgrid[0:900, 0:1200] / 1200
    image = np.stack([np.sin(9 * x + 4 * y), np.cos(7 * y * x + 1), np.sin(5 * (x - y))], axis=-1) * 60 + 120
    image[(x - 0.5) ** 2 + (y - 0.4) ** 2 < 0.04] = (230, 40, 60)
    return (image + np.random.default_rng(0).normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8)


def in_process(what: str, arguments: dict[str, Any], cache: Path) -> dict[str, Any]:
    """The result of a function of this file in a new process, whose compilers keep their results in ``cache``."""
    folders = {name: cache / name.lower() for name in CACHES}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **{name: str(folder) for name, folder in folders.items()}}
    command = [sys.executable, __file__, "--only", what, "--arguments", json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def measure(name: str, dtype: str, runs: int, folder: Path, checkpoints: Path | None) -> list[dict[str, Any]]:
    """One row for each way."""
    config, weights = find_model(name, folder, checkpoints)
    given = {"model": config, "checkpoint": str(weights), "dtype": dtype}
    rows: list[dict[str, Any]] = []
    expected = folder / "0.npz"
    for i, way in enumerate(WAYS):
        artefact, answers = folder / f"artefact{i}", folder / f"{i}.npz"
        # An empty cache for every way, but for the one that is to find it full.
        cache = folder / f"cache{1 if way == WAYS[2] else i}"
        spent: dict[str, Any] = {"compile_s": None}
        if way in ("exported", "AOTInductor"):
            prepared = {**given, "folder": str(artefact), "aot": way == "AOTInductor"}
            spent = in_process("prepare", prepared, cache)
        asked = {**given, "way": way, "folder": str(artefact), "runs": runs, "answers": str(answers)}
        spent |= in_process("run", asked, cache)
        if way.startswith("torch.compile"):
            spent["compile_s"] = spent["first_encode_s"] + spent["first_mask_s"] - spent["median_s"]
        difference = None if i == 0 else compare(expected, answers)
        rows.append({"mode": way, "model": name, "dtype": dtype, **spent, "difference": difference})
        print(line(rows[-1]), flush=True)
    return rows


def find_model(name: str, folder: Path, checkpoints: Path | None) -> tuple[str, Path]:
    """Configuration and checkpoint; without a folder of checkpoints the weights are drawn."""
    from sam2fast import nano

    if name == "nano":
        return nano.CONFIG, nano.WEIGHTS
    config = f"configs/sam2.1/sam2.1_hiera_{LETTERS[name]}.yaml"
    if checkpoints is not None:
        return config, checkpoints / f"sam2.1_hiera_{name}.pt"
    import torch

    sys.path.insert(0, SUPPORT)
    import tame_weights

    from sam2fast.build_sam import build_sam2

    file = folder / f"{name}.pt"
    if not file.exists():
        torch.save({"model": tame_weights.fill(build_sam2(config, None, device="cpu"), 0).state_dict()}, file)
    return config, file


def compare(expected: Path, actual: Path) -> float:
    """The larger relative error of logits and IoUs."""
    import numpy as np

    from sam2fast.utils.testing import relative_error

    with np.load(expected) as a, np.load(actual) as b:
        return max(relative_error(a[name], b[name]) for name in ("logits", "ious"))


def line(row: dict[str, Any]) -> str:
    compiling = "" if row["compile_s"] is None else f"compiling {row['compile_s']:.2f} s, "
    difference = "" if row["difference"] is None else f", differs by {row['difference']:.1e}"
    return (
        f"{row['model']} {row['dtype']} {row['mode']}: {compiling}loading {row['load_s']:.2f} s, first mask after "
        f"{row['first_s']:.2f} s, then {row['median_s']:.3f} s ({row['spread'][0]:.3f} to {row['spread'][1]:.3f})"
        f"{difference}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=["nano", *LETTERS])
    parser.add_argument("--dtype", action="append", choices=["float32", "bfloat16"])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--checkpoints", type=Path, help="folder with the official weights")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", choices=["prepare", "run"], help=argparse.SUPPRESS)
    parser.add_argument("--arguments", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        result = {"prepare": prepare, "run": run}[arguments.only](**json.loads(arguments.arguments))
        print(json.dumps(result))
        return
    from reports import write_report
    from side_by_side import machine

    rows = []
    for name in arguments.model or ["nano", "tiny"]:
        for dtype in arguments.dtype or ["float32"]:
            with tempfile.TemporaryDirectory() as folder:
                rows += measure(name, dtype, arguments.runs, Path(folder), arguments.checkpoints)
    if arguments.out:
        print(f"written to {write_report(arguments.out, 'compile-modes-cpu', machine=machine(), rows=rows)}")


if __name__ == "__main__":
    main()
