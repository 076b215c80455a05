"""The predictors of exported models beside the official ones, live, on the modules that are exported."""

import ast
import hashlib
import json
import sys
from dataclasses import asdict

import pytest

pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")

import cv2
import numpy as np
import tame_weights
from graph_sessions import assert_same
from onnx_graphs import PROMPTS, compare_images, model_of_modules
from parity import NARROW, random_image
from PIL import Image
from video import SMALL, build_video_pair, compare, run, run_official

from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.deploy.onnx.export import manifest_of, write_onnx
from sam2fast.deploy.onnx.runtime.graphs import load_model
from sam2fast.deploy.onnx.runtime.images import OnnxImagePredictor
from sam2fast.deploy.onnx.runtime.manifest import GRAPHS, MANIFEST, OnnxModelError
from sam2fast.deploy.onnx.runtime.videos import OnnxVideoPredictor
from sam2fast.deploy.onnx.standalone import tracker_source
from sam2fast.tracking.strategies import Sam2, Samurai


@pytest.fixture(scope="module")
def model(pair):
    return model_of_modules(pair[1])


def two_objects(s):
    """On the third frame one of them has two memories and the other one."""
    s.points(0, 1, (60, 40, 1))
    s.propagate(max_frame_num_to_track=1)
    s.points(1, 2, box=[20, 20, 70, 60])
    s.propagate(start_frame_idx=1, max_frame_num_to_track=3)


@pytest.mark.parametrize("variant", [1, 2])
def test_means_of_memories(variant, video):
    """EfficientTAM's, beside the predictor."""
    given = {"device": "cpu", "hydra_overrides_extra": [f"++model.image_size={SMALL}"]}
    model = tame_weights.fill(build_sam2_video_predictor(f"efficienttam_ti_{variant}", **given), 0)
    modules = model_of_modules(model)
    assert_same(run(model, video, two_objects), run(OnnxVideoPredictor(modules), video, two_objects), 1e-4)


def test_absent_objects(pair, video):
    def scenario(s):
        s.points(0, 1, (60, 40, 1))
        s.mask(0, 2, np.zeros((90, 120), bool))
        s.propagate(max_frame_num_to_track=2)

    biases = [predictor.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data for predictor in pair]
    for bias in biases:
        bias -= 4
    try:
        expected = run_official(pair[0], video, scenario, check_itself=False)
        compare(expected, run(OnnxVideoPredictor(model_of_modules(pair[1])), video, scenario))
    finally:
        for bias in biases:
            bias += 4
    assert (expected[-1].masks == -1024).all()


def test_videos_of_the_first_generation(video):
    """Its pointers have no temporal encoding, and its absent objects none in their memories."""
    official, ours = build_video_pair("sam2_t", NARROW, image_size=SMALL)

    def scenario(s):
        s.points(1, 1, (60, 40, 1))
        s.points(0, 2, box=[20, 20, 70, 60])
        s.propagate(start_frame_idx=1, max_frame_num_to_track=3)

    expected = run_official(official, video, scenario, check_itself=False)
    compare(expected, run(OnnxVideoPredictor(model_of_modules(ours)), video, scenario))


def test_holes_and_sprinkles_of_images(pair, model):
    areas = {"max_hole_area": 5.0, "max_sprinkle_area": 6.0}
    assert compare_images(pair[0], model, PROMPTS["box"], **areas) > 0.01, "they change the mask"


def test_forms_of_prompts(model, video):
    """That sam2fast takes, too: a box of two corners beside no points, points in a batch of one."""
    predictor = OnnxVideoPredictor(model)
    box, corners = [20, 20, 70, 60], [[20, 20], [70, 60]]
    for plain, other in (
        ({"box": box}, {"box": corners, "points": [], "labels": []}),
        ({"points": [[60, 40]], "labels": [1]}, {"points": [[[60, 40]]], "labels": [1]}),
    ):
        answers = [
            predictor.add_new_points_or_box(predictor.init_state(video), 0, 1, **given) for given in (plain, other)
        ]
        assert np.array_equal(answers[0][2], answers[1][2])


def test_all_objects_of_equal_memories_are_one_batch(pair, model, video):
    predictor = OnnxVideoPredictor(model)
    state = predictor.init_state(video)
    for i, frame in enumerate((0, 0, 1)):
        predictor.add_new_points_or_box(state, frame, i, [[60, 40 + i]], [1])
    batches = []
    predict = predictor._predict_batch
    predictor._predict_batch = lambda *args: batches.append(args[2]) or predict(*args)
    for frame, _, _ in predictor.propagate_in_video(state, start_frame_idx=2, max_frame_num_to_track=1):
        assert batches == [(0, 1, 2)] * (frame - 1)


@pytest.mark.parametrize(
    "name", ["non_overlap_masks", "add_all_frames_to_correct_as_cond", "clear_non_cond_mem_around_input"]
)
def test_settings(name, pair, video):
    """Those of the predictor that change what is tracked, beside sam2fast's own."""
    ours = pair[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ours, name, True)
        tracker = OnnxVideoPredictor(model_of_modules(ours))

        def scenario(s):
            s.points(0, 1, (60, 40, 1))
            s.points(0, 2, (90, 20, 1), (10, 70, 0))  # elsewhere: equal logits would be decided by rounding
            s.propagate(max_frame_num_to_track=3)
            s.points(2, 1, (65, 45, 0))
            s.propagate(max_frame_num_to_track=4)

        expected = run(ours, video, scenario)
        compare(expected, run(tracker, video, scenario))


POINT, TRACK = "add_new_points_or_box", "propagate_in_video"
WRONG_CALLS = [
    (POINT, {"frame_idx": 3}, IndexError, "video of 3 frames"),
    (POINT, {"frame_idx": 0.5}, TypeError, "frame_idx is 0.5"),
    (POINT, {}, ValueError, "points or box"),
    (POINT, {"points": [[1, 2]]}, ValueError, "belong together"),
    (POINT, {"points": [[1, 2]], "labels": [7]}, ValueError, "values other than"),
    (POINT, {"points": [["1", "2"]], "labels": [1]}, ValueError, "points is not an array of numbers"),
    (POINT, {"points": [[1, 2j]], "labels": [1]}, ValueError, "complex"),
    (POINT, {"points": [[1e20, 2]], "labels": [1]}, ValueError, "points holds"),
    (POINT, {"points": [[1, 2, 3]], "labels": [1]}, ValueError, r"expected \(N, 2\)"),
    (POINT, {"box": [[1, 2, 3, 4]] * 2}, ValueError, "box has shape"),
    ("add_new_mask", {"mask": np.zeros((1, 2, 3))}, ValueError, r"expected \(H, W\)"),
    ("add_new_mask", {"mask": [[np.nan]]}, ValueError, "mask holds NaN"),
    (TRACK, {"start_frame_idx": -1}, IndexError, "frame -1"),
    (TRACK, {"start_frame_idx": 4}, IndexError, "frame 4"),
    (TRACK, {"start_frame_idx": 3.0}, TypeError, "start_frame_idx is 3.0"),
    (TRACK, {"max_frame_num_to_track": -1}, ValueError, "is -1"),
    (TRACK, {"max_frame_num_to_track": 1.5}, TypeError, "is 1.5"),
    ("remove_object", {"obj_id": "b", "strict": True}, RuntimeError, "no object 'b'"),
]


@pytest.fixture(scope="module")
def prompted(model, video):
    """A predictor and three frames with one object."""
    predictor = OnnxVideoPredictor(model)
    state = predictor.init_state([np.asarray(Image.open(path)) for path in sorted(video.iterdir())[:3]])
    predictor.add_new_points_or_box(state, 0, "a", [[60, 40]], [1])
    return predictor, state


@pytest.mark.parametrize(("method", "arguments", "error", "word"), WRONG_CALLS)
def test_a_failed_call_changes_nothing(prompted, method, arguments, error, word):
    predictor, state = prompted
    required = {"frame_idx": 0, "obj_id": "b"} if method.startswith("add") else {}
    with pytest.raises(error, match=word):
        list(getattr(predictor, method)(state, **required | arguments))
    assert state["obj_ids"] == ["a"] and not state.objects["a"].tracked
    assert (state["video_height"], state["num_frames"]) == (90, 3)


def test_objects_that_are_added_while_others_are_tracked(pair, model, video):
    """They wait for the next call; an object that is replaced is not tracked further. As in sam2fast's predictor."""

    def scenario(s):
        s.points(0, 1, (60, 40, 1))
        s.points(0, 2, box=[20, 20, 70, 60])
        for answer in s.predictor.propagate_in_video(s.state, max_frame_num_to_track=4):
            s._record("pass", answer)
            if answer[0] == 1:
                s.points(3, 3, (90, 20, 1))
                s.remove(2)
                s.points(2, 2, (90, 20, 1))
        s.propagate(start_frame_idx=2, max_frame_num_to_track=2)

    expected = run(pair[1], video, scenario)
    assert [r.ids for r in expected if r.step == "pass"] == [[1, 2], [1, 2], [1], [1], [1]]
    compare(expected, run(OnnxVideoPredictor(model), video, scenario))


GREY = np.zeros((9, 8), np.uint8)
UNUSABLE_VIDEOS = {
    "nothing": (lambda folder: None, TypeError, "expected a folder"),
    "a number": (lambda folder: 3, TypeError, "expected a folder"),
    "an iterator": (lambda folder: iter([GREY]), TypeError, "a list of images"),
    "a folder with 16 bits": (lambda folder: folder, ValueError, "frame 0: .* 8 bits"),
    "a file with 16 bits": (lambda folder: [folder / "0.png"], ValueError, "frame 0: .* 8 bits"),
    "no image": (lambda folder: [GREY, None], ValueError, "frame 1: .* object"),
    "another name": (lambda folder: folder / "named", ValueError, "numbers: .*'mask'"),
}


@pytest.mark.parametrize(("video", "error", "word"), UNUSABLE_VIDEOS.values(), ids=UNUSABLE_VIDEOS)
def test_unusable_videos(model, tmp_path, video, error, word):
    Image.fromarray(GREY.astype(np.uint16)).save(tmp_path / "0.png")
    (tmp_path / "named").mkdir()
    (tmp_path / "named" / "mask.png").touch()
    with pytest.raises(error, match=word):
        OnnxVideoPredictor(model).init_state(video(tmp_path)).frames[1]


def test_what_must_come_first(model):
    with pytest.raises(RuntimeError, match="no image is set"):
        OnnxImagePredictor(model).predict(box=[1, 2, 3, 4])
    predictor = OnnxVideoPredictor(model)
    state = predictor.init_state([GREY])
    with pytest.raises(RuntimeError, match="no object to track"):
        next(predictor.propagate_in_video(state))
    predictor.add_new_points_or_box(state, 0, "a", [[4, 4]], [1])
    assert not list(predictor.propagate_in_video(state, start_frame_idx=1)), "the video's length is no error"


def test_orientation_of_frames(model, tmp_path):
    """As in sam2fast: it is ignored in folders, and applied to a list's files."""
    image = Image.new("RGB", (20, 10))
    exif = image.getexif()
    exif[0x112] = 6
    image.save(tmp_path / "0.jpg", exif=exif)
    path = tmp_path / "0.jpg"
    for given, size in ((tmp_path, (10, 20)), ([path], (20, 10)), ([str(path)], (20, 10))):
        state = OnnxVideoPredictor(model).init_state(given)
        assert (state.video_height, state.video_width) == size


REFUSED = {
    "no memories": ({"num_maskmem": 0}, "num_maskmem is 0"),
    "soft pointers": ({"soft_no_obj_ptr": True}, "soft_no_obj_ptr is True"),
    "training": ({"training": True}, "evaluation mode"),
    "a strategy": ({"strategy": Samurai()}, "sam2 and together, not Samurai; first set .* attribute strategy"),
    "a strategy of one's own": ({"strategy": type("Own", (Sam2,), {})()}, "together, not Own"),
    "a patched part": ({"memory_encoder.forward": print}, "memory_encoder was"),
    "attention": ({"memory_attention.layers.0.cross_attn_image.num_heads": 2}, "2 heads"),
}


@pytest.mark.parametrize(("changes", "word"), REFUSED.values(), ids=REFUSED)
def test_models_that_cannot_be_exported(pair, monkeypatch, tmp_path, changes, word):
    for name, value in changes.items():
        part, _, attribute = name.rpartition(".")
        monkeypatch.setattr(pair[1].get_submodule(part), attribute, value)
    with pytest.raises(ValueError, match=word):
        write_onnx(pair[1], tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_wrong_arguments(pair, tmp_path):
    with pytest.raises(ValueError, match="'bfloat16'"):
        write_onnx(pair[1], tmp_path / "out", dtype="bfloat16")
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="not empty"):
        write_onnx(pair[1], tmp_path)
    with pytest.raises(ValueError, match="'tpu'.* has cpu"):
        load_model(tmp_path, "tpu")
    with pytest.raises(ValueError, match="'coreml'"):
        load_model(tmp_path, "coreml")


def folder_with(tmp_path, ours, damage):
    """A folder with a correct manifest of files that are no graphs, which ``damage`` changes."""
    for name in GRAPHS:
        (tmp_path / f"{name}.onnx").write_bytes(name.encode())
    files = {path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in tmp_path.iterdir()}
    (tmp_path / MANIFEST).write_text(json.dumps(asdict(manifest_of(ours, files=files))))
    damage(tmp_path)
    return tmp_path


def changed(**values):
    def damage(folder):
        content = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).write_text(json.dumps({**content, **values}))

    return damage


BROKEN = {
    "no manifest": (lambda folder: (folder / MANIFEST).unlink(), "no model.json"),
    "no text": (lambda folder: (folder / MANIFEST).write_bytes(b"\xff"), "model.json is damaged: UnicodeDecodeError"),
    "no object": (lambda folder: (folder / MANIFEST).write_text("[1]"), "damaged: TypeError"),
    "no format": (lambda folder: (folder / MANIFEST).write_text("{}"), "damaged: KeyError: 'format'"),
    "another format": (changed(format="sam2fast-onnx-0"), "'sam2fast-onnx-0'"),
    "another strategy": (changed(strategy="samurai"), "no strategy 'samurai'; expected sam2 or together"),
    "no rules": (changed(memory_rules={}), "damaged: TypeError"),
    "no files": (changed(files={}), "encoder.onnx is not the file"),
    "a graph less": (lambda folder: (folder / "decoder.onnx").unlink(), "decoder.onnx is missing"),
    "another graph": (lambda folder: (folder / "decoder.onnx").write_bytes(b"encoder"), "decoder.onnx is not the file"),
    "no graph": (lambda folder: None, "encoder.onnx cannot be loaded"),
}


@pytest.mark.parametrize(("damage", "word"), BROKEN.values(), ids=BROKEN)
def test_broken_folders(pair, tmp_path, damage, word):
    with pytest.raises(OnnxModelError, match=word):
        load_model(folder_with(tmp_path, pair[1], damage))


WRONG_IMAGES = [
    ("set_image", {"image": "text.jpg"}, ValueError, "cannot be read"),
    ("set_image", {"image": "missing.jpg"}, FileNotFoundError, "no image file"),
    ("set_image", {"image": "deep colours.png"}, ValueError, "more than 8 bits .*RGB;16B"),
    ("set_image", {"image": "deep grey.png"}, ValueError, "more than 8 bits .*I;16"),
    ("set_image", {"image": np.zeros((3, 4), np.float32)}, ValueError, "expected uint8"),
    ("set_image", {"image": np.zeros((3, 4, 5), np.uint8)}, ValueError, "expected uint8"),
    ("predict", {"box": [5, 5, 1, 1]}, ValueError, "wrong way round"),
    ("predict", {"mask_input": np.zeros((9, 9))}, ValueError, "mask_input has shape"),
    ("predict", {"box": [[1, 2, 3, 4]] * 2, **PROMPTS["clicks"]}, ValueError, "do not fit"),
]


@pytest.mark.parametrize(("method", "arguments", "error", "word"), WRONG_IMAGES)
def test_wrong_images(model, tmp_path, monkeypatch, method, arguments, error, word):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.jpg").write_text("none")
    for name, shape in (("deep colours.png", (60, 80, 3)), ("deep grey.png", (60, 80))):
        cv2.imwrite(name, np.full(shape, 4000, np.uint16))
    predictor = OnnxImagePredictor(model)
    predictor.set_image(random_image(60, 80))
    with pytest.raises(error, match=word):
        getattr(predictor, method)(**arguments)


@pytest.mark.parametrize(
    "prompt",
    [
        {"box": np.zeros((0, 4))},
        {"box": [], "point_coords": [], "point_labels": []},
        {"point_coords": np.zeros((0, 1, 2)), "point_labels": np.zeros((0, 1))},
        {"mask_input": np.zeros((0, 1, SMALL // 4, SMALL // 4))},
    ],
)
def test_no_objects(model, prompt):
    predictor = OnnxImagePredictor(model)
    predictor.set_image(random_image(60, 80))
    assert [x.shape for x in predictor.predict(**prompt)] == [(0, 3, 60, 80), (0, 3), (0, 3, SMALL // 4, SMALL // 4)]
    boxes = [[5, 5, 30, 30]] * 2
    for expected, found in zip(predictor.predict(box=boxes), predictor.predict([], [], box=boxes), strict=True):
        assert np.array_equal(expected, found)


def test_the_tracker_file_stands_alone():
    """It imports nothing else than numpy, Pillow, onnxruntime and the standard library, and no name stands twice."""
    source = tracker_source()
    nodes = ast.parse(source).body
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} - sys.stdlib_module_names == {"numpy", "PIL", "onnxruntime"}
    defined = [node.name for node in nodes if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    targets = [target for node in nodes if isinstance(node, ast.Assign) for target in node.targets]
    defined += [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
    assert len(defined) > 40 and len(defined) == len(set(defined))
    assert "sam2fast." not in "".join(line for line in source.splitlines() if "import" in line)
