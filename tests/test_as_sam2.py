import subprocess
import sys
import textwrap

OFFICIAL_SCRIPT = """
    import pickle, inspect
    from sam2.build_sam import build_sam2, HF_MODEL_ID_TO_FILENAMES
    from sam2.sam2_image_predictor import SAM2ImagePredictor
    from sam2.modeling.sam2_base import SAM2Base
    from sam2.modeling.sam.transformer import RoPEAttention, TwoWayTransformer
    from sam2.modeling.backbones.hieradet import Hiera
    from sam2.utils.misc import get_connected_components, mask_to_box
    from sam2.utils.transforms import SAM2Transforms
    import sam2.build_sam as module
    import numpy as np

    overrides = ["++model.image_size=256"]
    model = build_sam2("configs/sam2.1/sam2.1_hiera_t.yaml", device="cpu", hydra_overrides_extra=overrides)
    predictor = SAM2ImagePredictor(model)
    predictor.set_image(np.zeros((40, 60, 3), dtype=np.uint8))
    masks, scores, logits = predictor.predict(point_coords=np.array([[30, 20]]), point_labels=np.array([1]))
    assert masks.shape == (3, 40, 60) and module.build_sam2 is build_sam2 and isinstance(model, SAM2Base)
    assert type(pickle.loads(pickle.dumps(model))) is SAM2Base
    assert SAM2ImagePredictor.__module__ == "sam2fast.sam2_image_predictor"
    assert inspect.getmodule(SAM2ImagePredictor).__name__ == "sam2fast.sam2_image_predictor"
    assert "class SAM2ImagePredictor" in inspect.getsource(SAM2ImagePredictor)
    inspect.stack()
    print("ran")
"""

VIDEO_SCRIPT = """
    import tempfile, sys
    import numpy as np, torch
    from PIL import Image
    from sam2.build_sam import build_sam2_video_predictor
    from sam2.sam2_video_predictor import SAM2VideoPredictor, SAM2VideoPredictorVOS

    folder = tempfile.mkdtemp()
    for i in range(3):
        Image.fromarray(np.full((40, 60, 3), 60 * i, dtype=np.uint8)).save(f"{folder}/{i:05d}.jpg")
    predictor = build_sam2_video_predictor(
        "configs/sam2.1/sam2.1_hiera_t.yaml", None, device="cpu",
        hydra_overrides_extra=["++model.image_size=256"], vos_optimized=True,
    )
    assert isinstance(predictor, SAM2VideoPredictor) and type(predictor) is SAM2VideoPredictorVOS
    with torch.inference_mode():
        inference_state = predictor.init_state(video_path=folder, offload_video_to_cpu=True, async_loading_frames=True)
        _, out_obj_ids, out_mask_logits = predictor.add_new_points_or_box(
            inference_state=inference_state, frame_idx=0, obj_id=1,
            points=np.array([[30, 20]], dtype=np.float32), labels=np.array([1], np.int32),
        )
        predictor.add_new_points(inference_state, 0, 2, [[10, 10]], [1])
        predictor.add_new_mask(inference_state=inference_state, frame_idx=1, obj_id=3, mask=np.ones((40, 60)))
        video_segments = {}
        for out_frame_idx, out_obj_ids, out_mask_logits in predictor.propagate_in_video(inference_state):
            video_segments[out_frame_idx] = {
                obj: (out_mask_logits[i] > 0.0).cpu().numpy() for i, obj in enumerate(out_obj_ids)
            }
        assert sorted(video_segments) == [0, 1, 2] and video_segments[2][3].shape == (1, 40, 60)
        assert inference_state["num_frames"] == 3 and inference_state["video_height"] == 40
        predictor.remove_object(inference_state, 2)
        predictor.reset_state(inference_state)
    print("tracked")
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)


def test_a_script_written_for_the_original_runs():
    done = run("import sam2fast.as_sam2\nimport sam2fast.as_sam2\n" + textwrap.dedent(OFFICIAL_SCRIPT))
    assert done.stdout == "ran\n", done.stderr


def test_a_video_script_written_for_the_original_runs():
    done = run("import sam2fast.as_sam2\n" + textwrap.dedent(VIDEO_SCRIPT))
    assert done.stdout == "tracked\n", done.stderr


def test_official_modules_without_a_counterpart_say_so():
    for module, message in (("sam2_video_predictor_legacy", "sam2.sam2_video_predictor has"), ("benchmark", "bench/")):
        done = run(f"import sam2fast.as_sam2\nimport sam2.{module}")
        assert "ImportError" in done.stderr and f"sam2.{module}: " in done.stderr and message in done.stderr


def test_unknown_official_names_are_ordinary_import_errors():
    done = run("import sam2fast.as_sam2\nfrom sam2.build_sam import nothing")
    assert "ImportError" in done.stderr and "nothing" in done.stderr
    done = run("import sam2fast.as_sam2\nimport sam2.nothing")
    assert "ModuleNotFoundError" in done.stderr and "sam2.nothing" in done.stderr


def test_refuses_when_the_original_is_imported():
    done = run("import sys; sys.path.insert(0, 'tests/support'); import oracle, sam2\nimport sam2fast.as_sam2")
    assert done.returncode != 0
    assert "already imported" in done.stderr


def test_pickles_load_without_it(tmp_path):
    path = tmp_path / "mlp.pickle"
    run(f"""
        import sam2fast.as_sam2, pickle
        from sam2.modeling.sam2_utils import MLP
        pickle.dump(MLP(4, 4, 4, 2), open({str(path)!r}, "wb"))
    """)
    done = run(f"import pickle; print(type(pickle.load(open({str(path)!r}, 'rb'))).__module__)")
    assert done.stdout.strip() == "sam2fast.modeling.layers", done.stderr
