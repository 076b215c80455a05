"""``examples/text_prompts.py`` with a detector of random weights: its boxes become the library's masks and tracks."""

import sys
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from small_video import SIZE, video_frames
from text_prompts import find_boxes, main, tracks

from sam2fast import SAM2VideoPredictor

FRAMES = video_frames(4)
TEXTS = ["disc", "square"]


@pytest.fixture(scope="module")
def detector_folder(tmp_path_factory):
    """OWL-ViT with tiny layers, as ``pipeline`` loads it."""
    pytest.importorskip("transformers")
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import OwlViTConfig, OwlViTForObjectDetection, OwlViTImageProcessor, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("detector")
    words = Tokenizer(WordLevel({"<pad>": 0, "disc": 1, "square": 2, "<unk>": 3}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    OwlViTImageProcessor(size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        folder
    )
    layers = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = layers | {"vocab_size": 4, "max_position_embeddings": 4, "eos_token_id": 2, "pad_token_id": 0}
    vision = layers | {"image_size": 32, "patch_size": 8}
    config = OwlViTConfig(text_config=text, vision_config=vision, projection_dim=16)
    torch.manual_seed(5)
    OwlViTForObjectDetection(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pipeline(detector_folder):
    import transformers

    return transformers.pipeline("zero-shot-object-detection", str(detector_folder))


def test_boxes_of_texts_become_masks_and_tracks(pipeline):
    detect = partial(find_boxes, pipeline, TEXTS, 0.0)
    boxes, labels, scores = detect(Image.fromarray(FRAMES[0]))
    assert len(boxes) == len(labels) == len(scores) > 1 and set(labels) == set(TEXTS)
    assert boxes.shape[1] == 4

    def few(image):
        found = detect(image)
        return tuple(part[:2] for part in found)

    predictor = SAM2VideoPredictor.from_pretrained("sam2fast/nano", device="cpu")
    found = list(tracks(predictor, FRAMES, few, every=2))
    with predictor.open_stream() as stream:
        for t, (frame, (rgb, masks, ids, names)) in enumerate(zip(FRAMES, found, strict=True)):
            result = stream.step(frame)
            if t % 2 == 0:
                result = stream.add_detections(*few(Image.fromarray(frame)), start_score=0).result
            assert np.array_equal(rgb, frame) and np.array_equal(masks, (result.masks[:, 0] > 0).numpy())
            assert ids == result.obj_ids and set(names) <= set(TEXTS) and masks.any()


def test_nothing_is_found(pipeline):
    detect = partial(find_boxes, pipeline, TEXTS, 1.0)
    predictor = SAM2VideoPredictor.from_pretrained("sam2fast/nano", device="cpu")
    assert [masks.shape for _, masks, _, _ in tracks(predictor, FRAMES[:2], detect)] == [(0, SIZE, SIZE)] * 2


def test_the_script(detector_folder, tmp_path, monkeypatch, capsys):
    Image.fromarray(FRAMES[0]).save(tmp_path / "photo.png")
    arguments = [str(tmp_path / "photo.png"), *TEXTS, "--detector", str(detector_folder), "--model", "sam2fast/nano"]
    options = ["--least", "0.0"]
    monkeypatch.setattr(sys, "argv", ["text_prompts.py", *arguments, *options])
    monkeypatch.chdir(tmp_path)
    main()
    assert capsys.readouterr().out.startswith("0 {1: ") and (tmp_path / "00000.jpg").is_file()
