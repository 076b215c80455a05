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


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)


def test_a_script_written_for_the_original_runs():
    done = run("import sam2fast.as_sam2\nimport sam2fast.as_sam2\n" + textwrap.dedent(OFFICIAL_SCRIPT))
    assert done.stdout == "ran\n", done.stderr


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
