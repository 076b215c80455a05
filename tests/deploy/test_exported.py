"""Exported programs and artefacts: the model's own results, refusals, atomic writes, damaged files."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from mini_model import mini_model
from parity import random_image, random_map

from sam2fast.deploy import exported
from sam2fast.deploy.compilation import compile_model
from sam2fast.deploy.exported import artifact, loading
from sam2fast.deploy.exported.artifact import DECODER, ENCODER, METADATA
from sam2fast.image_features import Features
from sam2fast.kernels._dispatch import backend
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.utils.testing import relative_error

SIZE, PROMPTS, POINTS = 128, 2, 4
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def model():
    return mini_model()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """An artefact of exported programs, from a compiled model, which must make no difference."""
    path = tmp_path_factory.mktemp("exported") / "artefact"
    compiled = compile_model(mini_model(), backend="eager")
    exported.write_artifact(compiled, path, "mini", prompts=PROMPTS, points=POINTS)
    return path


@pytest.fixture(scope="module")
def predictors(model, folder):
    return SAM2ImagePredictor(model), exported.load_predictor(folder)


@pytest.fixture
def levels(model):
    with torch.no_grad():
        *high_res, embedding = model.encode_image(random_map(1, 3, SIZE, SIZE))
        return [*high_res, embedding + model.no_mem_embed.reshape(1, -1, 1, 1)]


def assert_same(expected, actual):
    for a, b in zip(expected, actual, strict=True):
        assert a.dtype == b.dtype and relative_error(a, b) <= TOLERANCE


def operators(program):
    return {str(node.target) for node in program.graph.nodes if node.op == "call_function"}


def test_encoder(predictors, levels):
    actual = predictors[1].model._encode(random_map(1, 3, SIZE, SIZE))
    assert_same(levels, actual)
    assert all(x.is_contiguous() for x in actual)


@torch.no_grad()
@pytest.mark.parametrize("points", [1, 2, POINTS])
def test_decoder(model, predictors, levels, points):
    """Against the decoder's own single and multiple masks."""
    coords = random_map(PROMPTS, points, 2, seed=3).abs() * SIZE / 3
    labels = torch.arange(PROMPTS * points).reshape(PROMPTS, points).int() % 5 - 1
    sparse, dense = model.sam_prompt_encoder((coords, labels), None, None)
    given = {
        "image_embeddings": levels[-1],
        "image_pe": model.sam_prompt_encoder.get_dense_pe(),
        "sparse_prompt_embeddings": sparse,
        "dense_prompt_embeddings": dense,
        "repeat_image": True,
        "high_res_features": levels[:-1],
    }
    masks, ious, scores = predictors[1].model._decode(levels, coords, labels, None)
    decoder = model.sam_mask_decoder
    single, its_iou, _, presence = decoder(**given, multimask_output=False)
    many, their_ious, _, _ = decoder(**given, multimask_output=True)
    assert_same(
        [single, its_iou, many, their_ious, presence], [masks[:, :1], ious[:, :1], masks[:, 1:], ious[:, 1:], scores]
    )


def test_kept_features_and_prompts_of_any_number(predictors, tmp_path):
    features = predictors[1].encode(random_image(60, 80))
    features.save(tmp_path / "image")
    predictors[0].set_image(random_image(60, 80))
    ragged = {"point_coords": [[[30, 20]], [[5, 5], [50, 40]]], "point_labels": [[1], [0, 1]]}
    for prompt in ({"box": [5, 5, 40, 30]}, ragged):
        actual = predictors[1].predict(**prompt, features=Features.load(tmp_path / "image"), return_logits=True)
        assert_same(predictors[0].predict(**prompt, return_logits=True), actual)
    assert predictors[1].predict(box=[], features=features)[0].shape == (0, 3, 60, 80)
    with pytest.raises(ValueError, match="the features come from another model: .*weights"):
        predictors[0].predict(box=[5, 5, 40, 30], features=features)


@torch.no_grad()
def test_unstable_masks_are_replaced(model, levels, monkeypatch):
    """By the best of three, as in the decoder; the threshold lies between two prompts' stability."""
    decoder = model.sam_mask_decoder
    coords, labels = random_map(2, 1, 2, seed=5).abs() * SIZE / 2, torch.ones(2, 1, dtype=torch.int32)
    module = exported.DecoderModule(model)
    monkeypatch.setattr(decoder, "dynamic_multimask_via_stability", False)
    plain, _, _ = module(levels, coords, labels)
    stability = decoder._get_stability_scores(plain[:, 0])
    monkeypatch.setattr(decoder, "dynamic_multimask_via_stability", True)
    monkeypatch.setattr(decoder, "dynamic_multimask_stability_thresh", float(stability.mean()))
    masks, ious, _ = module(levels, coords, labels)
    stays, changes = int(stability.argmax()), int(stability.argmin())
    best = int(ious[changes, 1:].argmax()) + 1
    assert stays != changes and torch.equal(masks[stays, 0], plain[stays, 0])
    assert torch.equal(masks[changes, 0], plain[changes, best]) and ious[changes, 0] == ious[changes, best]
    assert torch.equal(masks[:, 1:], plain[:, 1:])


@torch.no_grad()
def test_decoder_with_a_mask(model, levels):
    program = exported.export_decoder(model, points=1, mask_input=True)
    arguments = (levels, torch.full((1, 1, 2), 40.0), torch.ones(1, 1, dtype=torch.int32))
    mask = random_map(1, 1, SIZE // 4, SIZE // 4)
    module = exported.DecoderModule(model)
    assert_same(module(*arguments, mask), program.module()(*arguments, mask))
    assert relative_error(module(*arguments, mask)[0], module(*arguments)[0]) > 0.01, "the mask has an effect"


def test_kernels_are_optional(tmp_path):
    """With kernels that can run, here in the interpreter."""
    pytest.importorskip("triton")
    model = mini_model(["++model.image_size=64"])
    with backend("triton"):
        assert not any("sam2fast" in name for name in operators(exported.export_encoder(model)))
        program = exported.export_encoder(model, keep_kernels=True)
    exported.save_program(program, tmp_path / "kept.pt2")
    kept, pixels = operators(program), random_map(1, 3, 64, 64)
    with backend("torch"):
        assert_same(exported.EncoderModule(model)(pixels), program.module()(pixels))
    assert "sam2fast.window_attention.default" in kept
    assert operators(exported.load_program(tmp_path / "kept.pt2")) == kept
    with ZipFile(tmp_path / "kept.pt2") as new, ZipFile(tmp_path / "older.pt2", "w") as older:
        for name in new.namelist():
            older.writestr(name, new.read(name).replace(b"sam2fast.window_attention", b"sam2fast.old_attention"))
    with pytest.raises(exported.ArtifactError, match="with keep_kernels=True, of sam2fast; export it again"):
        exported.load_program(tmp_path / "older.pt2")


def test_programs_need_torch_alone(folder, tmp_path):
    """A file can be read without this package and consists of torch operators."""
    script = f"""
import sys, torch
program = torch.export.load("{folder / DECODER}")
assert not [n for n in program.graph.nodes if "sam2fast" in str(n.target)]
assert not [name for name in sys.modules if name.startswith("sam2fast")]
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


WRONG_CALLS = [
    (lambda m, f: exported.export_encoder(mini_model().train()), ValueError, "evaluation"),
    (lambda m, f: exported.export_decoder(mini_model().train()), ValueError, "evaluation"),
    (lambda m, f: exported.export_encoder(m, 0), ValueError, "batch is 0"),
    (lambda m, f: exported.export_decoder(m, points=0), ValueError, "points is 0"),
    (lambda m, f: exported.save_program(None, f / "a.pt"), ValueError, ".pt2"),
    (lambda m, f: exported.compile_artifact(None, f / "a.pt"), ValueError, ".pt2"),
    (lambda m, f: exported.load_program(f / "a"), FileNotFoundError, "exported program"),
    (lambda m, f: exported.load_artifact(f / "a"), FileNotFoundError, "compiled program"),
    (lambda m, f: exported.load_predictor(f / "a"), FileNotFoundError, "no artefact"),
]


@pytest.mark.parametrize(("call", "error", "word"), WRONG_CALLS)
def test_wrong_calls(model, tmp_path, call, error, word):
    with pytest.raises(error, match=word):
        call(model, tmp_path)
    assert not list(tmp_path.iterdir())


PROMPTED = {
    "one point": {"point_coords": [[30, 20]], "point_labels": [1]},
    "a box": {"box": [3, 4, 50, 40], "multimask_output": False},
    "a box with two points": {"box": [3, 4, 50, 40], "point_coords": [[30, 20], [8, 8]], "point_labels": [1, 0]},
    "more boxes than a call takes": {"box": [[3, 4, 50, 40], [1, 2, 30, 40], [5, 5, 9, 9]], "return_logits": True},
    "shares of the image": {"point_coords": [[0.3, 0.2]], "point_labels": [1], "normalize_coords": False},
}


def assert_same_masks(predictors, prompts):
    answers = []
    for predictor in predictors:
        predictor.set_image(random_image(60, 80))
        answers.append(predictor.predict(**prompts))
    assert_same(*answers)


@pytest.mark.parametrize("prompts", PROMPTED.values(), ids=PROMPTED.keys())
def test_predictor(predictors, prompts):
    assert_same_masks(predictors, prompts)


def test_predictor_of_several_images(predictors):
    answers = []
    for predictor in predictors:
        predictor.set_image_batch([random_image(60, 80), random_image(50, 40, seed=1)])
        answers.append(predictor.predict_batch([[[30, 20]], [[9, 9]]], [[1], [0]]))
    for expected, actual in zip(*answers, strict=True):
        assert_same(expected, actual)


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ({"point_coords": [[1, 1]] * 5, "point_labels": [1] * 5}, "5 points; .* 1 to 4"),
        ({"box": [3, 4, 50, 40], "mask_input": torch.zeros(1, 32, 32)}, "mask_input"),
        ({}, "points or a box"),
    ],
)
def test_unsupported_prompts(predictors, prompt, word):
    predictors[1].set_image(random_image(60, 80))
    with pytest.raises(ValueError, match=word):
        predictors[1].predict(**prompt)


def test_metadata(model, folder):
    metadata = exported.read_metadata(folder)
    content = json.loads((folder / METADATA).read_text())
    assert sorted(path.name for path in folder.iterdir()) == sorted([ENCODER, DECODER, METADATA])
    shown = (metadata.kind, metadata.config, metadata.image_size, metadata.prompts, metadata.points)
    assert shown == ("exported", "mini", SIZE, 2, 4)
    where = {"dtype": "float32", "device": "cpu", "torch": torch.__version__}
    assert where.items() <= content.items() and where.items() <= vars(metadata).items()
    assert metadata.weights == artifact.weights_digest(model, artifact.IMAGE_WEIGHTS)
    other = mini_model()
    with torch.no_grad():
        other.image_encoder.neck.convs[0].conv.bias[0] += 1e-3
    assert metadata.weights != artifact.weights_digest(other, artifact.IMAGE_WEIGHTS)
    assert len(artifact.weights_digest(mini_model().to(torch.bfloat16))) == 64


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "artefact")


def change(folder, **metadata):
    content = json.loads((folder / METADATA).read_text())
    (folder / METADATA).write_text(json.dumps(content | metadata))


# Metadata to change, a word of the error, a file, and its new content.
WRONG = {
    "another torch": ({"kind": "aot", "torch": "2.4.0"}, "for torch 2.4.0"),
    "another processor": ({"kind": "aot", "processor": "Darwin arm64"}, "for Darwin arm64"),
    "another device": ({"device": "xpu"}, "xpu"),
    "another format": ({"format": 2}, "has the format 2; this program reads 1"),
    "another file": ({"sizes": {ENCODER: 5, DECODER: 5}}, "encoder.pt2 is missing or incomplete"),
    "no end": ({"sizes": {ENCODER: math.inf, DECODER: 5}}, "artifact.json is damaged"),
    "no sizes": ({"sizes": None}, "artifact.json is damaged"),
    "another kind": ({"kind": "other"}, "kind is 'other'"),
    "zeros": ({}, "decoder.pt2 is damaged", DECODER, lambda old: b"\0" * len(old)),
    "a half twice": ({}, "decoder.pt2 is damaged", DECODER, lambda old: old[: len(old) // 2] * 2 + old[: len(old) % 2]),
    "native zeros": ({"kind": "aot"}, "encoder.pt2 is damaged", ENCODER, lambda old: b"\0" * len(old)),
    "a byte less": ({}, "decoder.pt2 is missing or incomplete", DECODER, lambda old: old[:-1]),
    **{
        repr(text): ({}, "artifact.json is damaged", METADATA, lambda _, text=text: text)
        for text in (b"", b"{", b"[]", b"7", b"null", b'{"format": 1}')
    },
}


@pytest.mark.parametrize(("metadata", "word", "damage"), [(m, w, d) for m, w, *d in WRONG.values()], ids=WRONG)
def test_unusable_artefacts(copied, metadata, word, damage):
    change(copied, **metadata)
    if damage:
        name, content = damage
        (copied / name).write_bytes(content((copied / name).read_bytes()))
    with pytest.raises(exported.ArtifactError, match=word):
        exported.load_predictor(copied)


def test_exported_programs_may_be_of_another_torch(copied):
    change(copied, torch="2.12.0")
    assert artifact.check_usable(exported.read_metadata(copied), copied, "cpu") == torch.device("cpu")


@pytest.mark.parametrize("device", ["cuda", "nonsense", "cpu:1:2", ""])
def test_other_devices(folder, device):
    with pytest.raises(exported.ArtifactError, match="not for cuda" if device == "cuda" else f"no device '{device}'"):
        exported.load_predictor(folder, device=device)


def test_missing_gpus(copied, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    change(copied, device="cuda")
    metadata = exported.read_metadata(copied)
    with pytest.raises(exported.ArtifactError, match="no device 'cuda:2'"):
        artifact.check_usable(metadata, copied, "cuda:2")
    assert artifact.check_usable(metadata, copied, "cuda:1") == torch.device("cuda:1")


def test_a_failed_write_keeps_the_previous_program(monkeypatch, tmp_path):
    path = tmp_path / "program.pt2"
    path.write_text("before")

    def fail(file):
        open(file, "w").close()
        raise OSError("no space left")

    monkeypatch.setattr(torch.export, "save", lambda program, file: None)
    monkeypatch.setattr("pathlib.Path.write_bytes", lambda self, content: fail(self))
    monkeypatch.setattr("torch._inductor.aoti_compile_and_package", lambda *a, package_path, **k: fail(package_path))
    for write in (exported.save_program, exported.compile_artifact):
        with pytest.raises(OSError, match="no space left"):
            write(None, path)
        assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_options_reach_inductor(monkeypatch, tmp_path):
    def write(program, package_path, inductor_configs):
        Path(package_path).write_text(str(inductor_configs))

    monkeypatch.setattr("torch._inductor.aoti_compile_and_package", write)
    for options in (None, {"max_autotune": True}):
        exported.compile_artifact(None, tmp_path / "a.pt2", options)
        assert (tmp_path / "a.pt2").read_text() == str(options)


def test_native_code_is_given_all_tensors_in_order(copied, predictors, monkeypatch):
    """The predictor on a compiled artefact, whose native code is replaced by the exported programs."""

    model = predictors[1].model

    def load(path, device_index):
        if path.name == ENCODER:
            return lambda tensors: model._encode(*tensors)
        return lambda tensors: model._decode(tensors[:3], *tensors[3:], None)

    monkeypatch.setattr(loading, "load_artifact", load)
    change(copied, kind="aot")
    assert_same_masks((predictors[0], exported.load_predictor(copied)), PROMPTED["a box"])


@pytest.mark.slow
def test_a_compiled_model(model, predictors, tmp_path):
    exported.write_artifact(model, tmp_path / "artefact", aot=True, prompts=PROMPTS, points=POINTS)
    assert exported.read_metadata(tmp_path / "artefact").kind == "aot"
    compiled = exported.load_predictor(tmp_path / "artefact")
    for prompts in PROMPTED.values():
        assert_same_masks((predictors[0], compiled), prompts)
