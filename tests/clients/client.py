"""Runs a program that uses sam2 on a clip: ``PACKAGE PROGRAM RESULT``, where PACKAGE is ``sam2`` or ``sam2fast``.

The working directory has ``frames.npy``, ``model.yaml`` and ``model.pt``. The programs are unchanged. napari-samv2 is
driven without its window and without a GPU, which it asks for.
"""

import os
import sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

FRAMES = np.load("frames.npy")  # (T, H, W, 3) uint8 RGB


def simple_sam2() -> np.ndarray:
    """Masks of two objects, in two batches, by points, a box and a mask."""
    from simple_sam2 import SAM2Service

    video = cv2.VideoWriter("clip.avi", cv2.VideoWriter_fourcc(*"MJPG"), 10, FRAMES.shape[2:0:-1])
    for frame in FRAMES:
        video.write(frame[..., ::-1])
    video.release()
    square = np.zeros(FRAMES.shape[1:3], np.uint8)
    square[80:105, 90:115] = 1
    service = SAM2Service(cfg="model.yaml", ckpt="model.pt", batch_size=3, storage_dir="storage")
    service.init_video("clip", video_path="clip.avi")
    service.add_prompts("clip", 0, 1, pos_points=[[30, 40]], neg_points=[[70, 70]], box=[10, 20, 50, 60])
    service.add_prompts("clip", 0, 2, binary_mask=square)
    service.propagate_and_save("clip", obj_labels={"1": "disc"})
    return np.stack([np.asarray(Image.open(file)) for file in sorted(Path("storage/clip/masks").iterdir())])


def napari_samv2() -> np.ndarray:
    """Labels of two objects in a grey volume, by points on two slices, forwards and backwards."""
    import sam2.build_sam

    sam2.build_sam.build_sam2_video_predictor = partial(sam2.build_sam.build_sam2_video_predictor, device="cpu")
    torch.cuda.get_device_properties = lambda _: SimpleNamespace(major=7)
    qtpy: Any = ModuleType("qtpy.QtWidgets")
    qtpy.QWidget = object
    sys.modules |= {"qtpy": ModuleType("qtpy"), "qtpy.QtWidgets": qtpy}
    from pipelines.samv2.Samv2_pipeline_handler import SamV2_pipeline

    labels = SimpleNamespace(data=np.zeros(FRAMES.shape[:3], np.int32))
    viewer = SimpleNamespace(
        layers={"volume": SimpleNamespace(data=FRAMES.mean(-1).astype(np.uint8)), "labels": labels}
    )
    window = SimpleNamespace(
        image_layers_combo=SimpleNamespace(currentText=lambda: "volume"),
        output_layers_combo=SimpleNamespace(currentText=lambda: "labels"),
        interdir_lineedt=SimpleNamespace(text=os.getcwd),
        video_propagation_progressBar=SimpleNamespace(setValue=lambda percent: None),
    )
    pipeline = SamV2_pipeline(viewer, window, "model.pt", "model.yaml")
    pipeline.add_point([0, 40, 30], 1)
    pipeline.add_point([0, 70, 70], 1, neg_or_pos=0)
    pipeline.add_point([2, 92, 98], 2)
    pipeline.video_propagate()
    return labels.data


def samexporter() -> np.ndarray:
    """Masks of a click, by the two ONNX files that it exports."""
    import onnxruntime
    from sam2.build_sam import build_sam2
    from samexporter.export_sam2 import SAM2ImageDecoder, SAM2ImageEncoder

    model = build_sam2("model.yaml", "model.pt", device="cpu")
    side = model.image_size
    image = torch.from_numpy(cv2.resize(FRAMES[0], (side, side))).permute(2, 0, 1)[None] / 127.5 - 1
    encoder, decoder = SAM2ImageEncoder(model), SAM2ImageDecoder(model, multimask_output=True)
    low_res, middle, embedding = encoder(image)
    click = torch.tensor([[[60.0, 80.0]]]), torch.ones(1, 1), torch.zeros(1, 1, side // 4, side // 4), torch.zeros(1)
    found = []
    for name, part, given in (
        ("encoder", encoder, (image,)),
        ("decoder", decoder, (embedding, low_res, middle, *click)),
    ):
        names = [f"given_{i}" for i in range(len(given))]
        torch.onnx.utils.export(part, given, f"{name}.onnx", opset_version=18, input_names=names)
        session = onnxruntime.InferenceSession(f"{name}.onnx", providers=["CPUExecutionProvider"])
        found.append(session.run(None, {key: x.detach().numpy() for key, x in zip(names, given, strict=True)}))
    return found[1][0][0] > 0


PROGRAMS = {"simple-sam2": simple_sam2, "napari-samv2": napari_samv2, "samexporter": samexporter}

if __name__ == "__main__":
    package, program, result = sys.argv[1:]
    if package == "sam2fast":
        import sam2fast.as_sam2  # noqa: F401
    else:
        import oracle  # noqa: F401  (makes the official package importable)
        import sam2.sam2_video_predictor
        from float32_memory import Float32Memory

        sam2.sam2_video_predictor.torch = Float32Memory()
    import sam2

    GlobalHydra.instance().clear()
    initialize_config_dir(os.getcwd(), version_base="1.2")
    np.save(result, PROGRAMS[program]())
