import importlib
import inspect
import json
import pickle
import pkgutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import oracle  # makes the official package importable
import pytest
import sam2

from sam2fast._official_names import ABSENT

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


DOWNSTREAM_SCRIPT = """
    import numpy as np, torch
    from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
    from sam2.build_sam import build_sam2, _load_checkpoint
    from sam2.modeling.sam2_base import NO_OBJ_SCORE, SAM2Base
    from sam2.utils.amg import MaskData, build_all_layer_point_grids, calculate_stability_score, generate_crop_boxes
    from sam2.utils.misc import _load_img_as_tensor

    class Counting(SAM2AutomaticMaskGenerator):
        def _process_crop(self, image, crop_box, crop_layer_idx, orig_size):
            data = super()._process_crop(image, crop_box, crop_layer_idx, orig_size)
            assert isinstance(data, MaskData)
            print(crop_box, crop_layer_idx, orig_size)
            return data

    model = build_sam2("nano/sam2fast_nano", device="cpu", hydra_overrides_extra=["++model.image_size=256"])
    generator = Counting(model, points_per_side=None, point_grids=build_all_layer_point_grids(2, 0, 1),
                         pred_iou_thresh=0.0, stability_score_thresh=0.0)
    masks = generator.generate(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))
    assert masks and set(masks[0]) == {
        "segmentation", "area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box"
    }
    assert NO_OBJ_SCORE == -1024.0 and isinstance(generator.predictor.model, SAM2Base)
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)


def test_scripts_written_for_the_original_run():
    """For images, for video, and with a mask generator of their own."""
    scripts = "".join(map(textwrap.dedent, (OFFICIAL_SCRIPT, VIDEO_SCRIPT, DOWNSTREAM_SCRIPT)))
    done = run("import sam2fast.as_sam2\nimport sam2fast.as_sam2\n" + scripts)
    assert done.stdout == "ran\ntracked\n[0, 0, 60, 40] 0 (40, 60)\n", done.stderr


HYDRA_SCRIPT = """
    import importlib.resources, os
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from hydra.utils import instantiate
    import sam2
    import sam2.build_sam

    name, overrides = "configs/sam2.1/sam2.1_hiera_t.yaml", ["model.image_size=256"]
    found = compose(name, overrides)  # Hydra is initialised by the import
    try:
        initialize_config_module("sam2", version_base="1.2")
    except ValueError as error:
        print(error)
    GlobalHydra.instance().clear()
    initialize_config_module("sam2", version_base="1.2")
    assert compose(name, overrides) == found
    for letter in ("t", "s", "b+", "l"):
        assert compose(f"sam2_hiera_{letter}") == compose(f"configs/sam2/sam2_hiera_{letter}.yaml")
    print(sorted(file.name for file in importlib.resources.files("sam2").iterdir() if file.name.endswith(".yaml")))
    model = instantiate(found.model, _recursive_=True)
    print(type(model).__name__, model.image_size, sum(parameter.numel() for parameter in model.parameters()))
    print(os.path.basename(sam2.__file__), os.path.dirname(sam2.__file__) == sam2.__path__[0])
    print(os.path.dirname(sam2.build_sam.__file__) == sam2.__path__[0], len(sam2.__path__))
    for folder in ("sam2", "sam2.1"):
        print(sorted(os.listdir(os.path.join(sam2.__path__[0], "configs", folder))))
        print(sorted(file.name for file in importlib.resources.files("sam2.configs").joinpath(folder).iterdir()))
    text = importlib.resources.files("sam2").joinpath(name).read_text()
    assert text == open(os.path.join(sam2.__path__[0], name)).read() and "num_maskmem: 7" in text
"""


PATCH_SCRIPT = """
    import warnings
    from unittest import mock
    from sam2.build_sam import build_sam2
    import sam2.modeling.sam2_base as module, sam2.sam2_video_predictor as video, sam2.utils.misc

    class Mine(module.MaskDecoder):
        pass

    def decoder():
        narrow = ["++model.image_encoder.trunk.embed_dim=16",
                  "++model.image_encoder.neck.backbone_channel_list=[128,64,32,16]"]
        model = build_sam2("configs/sam2.1/sam2.1_hiera_t.yaml", device="cpu", hydra_overrides_extra=narrow)
        return type(model.sam_mask_decoder).__name__

    with mock.patch("sam2.modeling.sam2_base.MaskDecoder", Mine):
        print(decoder())
    print(decoder())
    module.MaskDecoder, module.own = Mine, 1
    print(decoder(), module.own)
    del module.own
    print(hasattr(module, "own"))
    with warnings.catch_warnings(record=True) as caught, mock.patch.object(video, "concat_points", None):
        assert video.concat_points is None
        sam2.utils.misc.get_connected_components = None
    assert callable(video.concat_points)
    print(*(warning.message for warning in caught))
"""


def test_hydra_finds_the_configurations_and_what_is_set_in_a_module_is_set_in_ours():
    """As with the official package, in the same script; what is not looked up here gives a warning."""
    support, script = str(Path(oracle.__file__).parent), textwrap.dedent(HYDRA_SCRIPT) + textwrap.dedent(PATCH_SCRIPT)
    expected = run(f"import sys; sys.path.append({support!r}); import oracle\n" + script)
    done = run("import sam2fast.as_sam2\n" + script)
    *lines, warning = done.stdout.splitlines()
    assert expected.stdout.splitlines()[:-1] == lines != [], (expected.stderr, done.stderr)
    for name in ("sam2_video_predictor.concat_points", "utils.misc.get_connected_components"):
        assert f"sam2fast does not look up sam2.{name}: " in warning


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "import sam2fast.as_sam2; from training.model.sam2 import SAM2Train",
            "training code does not run on sam2fast",
        ),
        ("import sam2; import sam2fast.as_sam2", "already imported"),
    ],
)
def test_refused(script, message):
    done = run(script)
    assert done.returncode == 1 and message in done.stderr


# Names of other packages that the official modules only import.
OTHER_PACKAGES = {
    "sam2.automatic_mask_generator": {"batched_nms", "box_area"},  # torchvision; ours is sam2fast.kernels.nms
    "sam2.build_sam": {"compose", "instantiate"},  # hydra, which ours does not initialise
    "sam2.modeling.backbones.hieradet": {"g_pathmgr", "partial"},
    "sam2.modeling.sam.transformer": {"partial"},
    "sam2.sam2_image_predictor": {"Image"},
    "sam2.sam2_video_predictor": {"OrderedDict"},
    "sam2.utils.amg": {"deepcopy", "product"},
    "sam2.utils.misc": {"Thread", "tqdm"},
    "sam2.utils.transforms": {"Normalize", "Resize", "ToTensor"},  # torchvision
}

NAMES_SCRIPT = """
    import importlib, json, sys
    from sam2fast._official_names import ABSENT

    def absent(package):
        for name, message in ABSENT.items():
            module, _, attribute = name.replace("sam2.", f"{package}.", 1).rpartition(".")
            assert not hasattr(importlib.import_module(module), attribute)
            for code in (f"from {module} import {attribute}", f"import {module}.{attribute}"):
                try:
                    exec(code)
                except ImportError as error:
                    assert str(error) == f"{module}.{attribute}: {message}", error
                else:
                    raise AssertionError(code)

    official = json.load(sys.stdin)
    absent("sam2fast")
    import sam2fast.utils.misc, sam2fast.compat.misc
    assert not hasattr(sam2fast.utils.misc, "nothing")
    own = {module: importlib.import_module(module.replace("sam2.", "sam2fast.", 1)) for module in official}
    import sam2fast.as_sam2
    absent("sam2")
    from sam2.build_sam import build_sam2_camera_predictor
    from sam2.sam2_camera_predictor import SAM2CameraPredictor
    assert "open_stream" in ABSENT["sam2.build_sam.build_sam2_object_tracker"]

    found, refused = {}, []
    for module, names in official.items():
        ours = importlib.import_module(module)
        found[module] = [name for name in names if hasattr(ours, name)]
        assert all(getattr(own[module], name) is getattr(ours, name) for name in found[module]), module
    for code in ("from sam2.build_sam import nothing", "import sam2.nothing", "import sam2.tracking"):
        try:
            exec(code)
        except ImportError as error:
            refused.append((type(error).__name__, str(error)))

    from sam2.utils.misc import *
    from sam2.modeling.sam2_utils import *
    from sam2.modeling.backbones.utils import *
    import pickle, sam2.utils.misc, sam2.utils.amg

    load_video_frames, concat_points, AsyncVideoFrameLoader, mask_to_box, get_clones, MLP, window_partition
    assert "MaskData" in dir(sam2.utils.amg) and "_compress" not in dir(sam2.utils.amg)
    print(json.dumps([found, refused, pickle.dumps(MLP(4, 4, 4, 2)).hex()]))
"""


def official_names() -> dict[str, dict[str, Any]]:
    """All names in the official modules, except modules and typing, including private functions."""
    names: dict[str, dict[str, Any]] = {}
    for info in pkgutil.walk_packages(sam2.__path__, "sam2."):
        if info.name in ABSENT:
            continue
        module = importlib.import_module(info.name)
        names[info.name] = {
            name: value
            for name, value in vars(module).items()
            if not name.startswith("__")
            and not inspect.ismodule(value)
            and getattr(value, "__module__", type(value).__module__) != "typing"
        }
    return {module: found for module, found in names.items() if found}


def test_official_names():
    """All resolve under both names, also imported ones; unknown ones are import errors, and others say what to use."""
    official = official_names()
    asked = json.dumps({module: [*names] for module, names in official.items()})
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(NAMES_SCRIPT)], input=asked, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found, refused, pickled = json.loads(done.stdout)
    missing = {
        f"{module}.{name}"
        for module, names in official.items()
        for name in {*names} - {*found[module]} - OTHER_PACKAGES.get(module, set())
    }
    assert not missing
    assert sum(map(len, official.values())) > 100
    assert [kind for kind, _ in refused] == ["ImportError", "ModuleNotFoundError", "ModuleNotFoundError"]
    for (_, message), unknown in zip(refused, ("nothing", "sam2.nothing", "sam2.tracking"), strict=True):
        assert unknown in message  # the last is ours alone
    assert "sam2fast.as_sam2" not in sys.modules
    assert type(pickle.loads(bytes.fromhex(pickled))).__module__ == "sam2fast.modeling.layers"
