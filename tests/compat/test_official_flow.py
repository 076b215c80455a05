"""Overridden private methods, and sessions as the official dict (``video_state``), on the same weights."""

import copy
import pickle
import types
from collections import Counter
from operator import methodcaller

import numpy as np
import oracle  # noqa: F401  (makes the official package importable)
import pytest
import torch
from sam2.sam2_image_predictor import SAM2ImagePredictor as OfficialImagePredictor
from video import NARROW, SMALL, Session, build_video_pair, clip, compare, jpeg_folder, run, run_official

from sam2fast.compat.overridden import OF_THE_FLOW
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.transforms import SAM2Transforms
from sam2fast.utils.testing import relative_error

# The official package calls one that it does not define.
DEFINED = [name for name in OF_THE_FLOW if name != "_clear_obj_non_cond_mem_around_input"]


@pytest.fixture(scope="module")
def pair():
    return build_video_pair(overrides=NARROW, image_size=SMALL)


@pytest.fixture
def models(pair):
    return copy.deepcopy(pair)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return jpeg_folder(tmp_path_factory.mktemp("video"), clip(6))


def scenario(session):
    """Points, a box, a correction, a mask, a removed prompt and object, and passes in both directions."""
    session.points(0, 1, (60, 40, 1))
    session.points(1, 2, box=[20, 20, 70, 60])
    session.propagate(max_frame_num_to_track=2)
    session.points(2, 1, (50, 30, 0))
    mask = torch.zeros(90, 120, dtype=torch.bool)
    mask[20:60, 30:80] = True
    session.mask(3, 3, mask)
    session.propagate(start_frame_idx=3)
    session.clear(2, 1)
    session.remove(2)
    session.propagate(start_frame_idx=4, reverse=True)
    session.reset()


def both(models, folder, scenario):
    """Equal answers of the two predictors."""
    official, ours = models
    compare(run_official(official, folder, scenario, check_itself=False), run(ours, folder, scenario))


def override(model, methods, where, monkeypatch):
    if where == "subclass":
        model.__class__ = type("Custom", (type(model),), methods)
    for name, method in methods.items():
        if where == "instance":
            setattr(model, name, types.MethodType(method, model))
        elif where == "class":
            monkeypatch.setattr(type(model), name, method)


def shapes(arguments):
    return tuple(sorted((k, tuple(x.shape)) for k, x in arguments.items() if isinstance(x, torch.Tensor)))


def one_object(session):
    session.points(0, 1, (60, 40, 1))
    session.propagate()


@pytest.mark.parametrize(("where", "calls"), [("instance", scenario), ("class", one_object), ("subclass", one_object)])
def test_methods_are_called_as_in_the_original(models, folder, where, calls, monkeypatch):
    """As often, with the same names of arguments and tensors of the same shapes."""
    seen = []
    for model in models:
        counts = Counter()

        def noted(name, original, counts=counts):
            def method(self, *args, **kwargs):
                counts[name, len(args), tuple(sorted(kwargs)), shapes(kwargs)] += 1
                return original(self, *args, **kwargs)

            return method

        override(model, {name: noted(name, getattr(type(model), name)) for name in DEFINED}, where, monkeypatch)
        seen.append(counts)
    both(models, folder, calls)
    only_in_errors = {"_obj_idx_to_id"}
    assert seen[1] == seen[0] and seen[0]
    assert calls is one_object or {name for name, *_ in seen[0]} == set(DEFINED) - only_in_errors


class Encoder(torch.nn.Module):
    """A user's own class around an encoder or its neck, which changes features and position encodings."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args, **kwargs):
        result = self.inner(*args, **kwargs)
        if not isinstance(result, dict):
            return result[0], [0.7 * x for x in result[1]]
        return result | {
            "vision_features": 1.3 * result["vision_features"],
            "vision_pos_enc": [0.7 * x for x in result["vision_pos_enc"]],
        }


@pytest.mark.parametrize("name", ["memory_encoder", "image_encoder", "image_encoder.neck"])
def test_encoders_of_another_class(models, folder, name, caplog):
    """Their position encodings are used as well; from the start, and replaced in the middle."""

    def replace(model):
        owner, _, part = name.rpartition(".")
        owner = model.get_submodule(owner)
        setattr(owner, part, Encoder(getattr(owner, part)))

    def replaced_later(session):
        session.points(0, 1, (60, 40, 1))
        session.propagate(max_frame_num_to_track=2)
        replace(session.predictor)
        session.propagate(start_frame_idx=3)
        session.reset()
        session.points(0, 1, (60, 40, 1))
        session.mask(0, 2, torch.eye(90, 120, dtype=torch.bool))
        session.propagate(max_frame_num_to_track=2)

    both(models, folder, replaced_later)
    assert "object by object" in caplog.text
    with pytest.raises(TypeError, match="streams do not call"):
        models[1].open_stream().step(np.zeros((90, 120, 3), np.uint8))


@pytest.mark.parametrize("name", OF_THE_FLOW)
def test_each_method_alone_is_noticed(pair, name, monkeypatch, caplog):
    ours = pair[1]
    opened = ours.open_stream()
    monkeypatch.setattr(ours, name, getattr(ours, name))
    for step in (ours.open_stream, lambda: opened.step(clip(1)[0])):
        with pytest.raises(TypeError, match=f"{name} is overridden, but streams do not call"):
            step()


def weakened(original):
    return lambda self, *args, **kwargs: original(self, *args, **kwargs) * 0.9


def test_a_method_patched_during_a_pass(models, folder, caplog):
    """It takes effect in the next frame; the log says once that tracking is slower now."""

    def during(session):
        session.points(0, 1, (60, 40, 1))
        session.points(0, 2, box=[20, 20, 70, 60])
        model = session.predictor
        for answer in model.propagate_in_video(session.state):
            session._record("tracked", answer)
            if answer[0] == 2:
                method = weakened(type(model)._prepare_memory_conditioned_features)
                model._prepare_memory_conditioned_features = types.MethodType(method, model)

    both(models, folder, during)
    assert [r.message.split(":")[0] for r in caplog.records if r.name.startswith("sam2fast")] == [
        "SAM2VideoPredictor._prepare_memory_conditioned_features is overridden"
    ]


def samurai(base):
    """A subclass as SAMURAI's: memories of confident frames only, and the choice of a mask by its movement."""

    class Samurai(base):
        centre, confident = None, None

        def _forward_sam_heads(self, *args, **kwargs):
            masks, high_res, ious, _, _, pointer, score = super()._forward_sam_heads(*args, **kwargs)
            centres = [high_res[0, i].clamp(min=0).sum(0).argmax().item() for i in range(masks.shape[1])]
            movement = torch.tensor([0.0 if self.centre is None else abs(c - self.centre) / 1000 for c in centres])
            best = (ious[0].float() - movement).argmax()
            self.centre = centres[best]
            return masks, high_res, ious, masks[:, best][:, None], high_res[:, best][:, None], pointer, score

        def _prepare_memory_conditioned_features(self, frame_idx, **kwargs):
            kept = kwargs.pop("output_dict")
            tracked = {t: x for t, x in kept["non_cond_frame_outputs"].items() if t % 2 or t == frame_idx - 1}
            return super()._prepare_memory_conditioned_features(
                frame_idx=frame_idx, output_dict={**kept, "non_cond_frame_outputs": tracked}, **kwargs
            )

    return Samurai


def test_a_subclass_like_samurai(models, folder):
    for model in models:
        model.__class__ = samurai(type(model))
    both(models, folder, one_object)


def test_old_frames_are_freed_in_a_long_loop(models, folder):
    def freeing(session):
        session.points(0, 1, (60, 40, 1))
        for answer in session.predictor.propagate_in_video(session.state):
            session._record("tracked", answer)
            tracked = session.state["output_dict_per_obj"][0]["non_cond_frame_outputs"]
            for old in [t for t in tracked if t < answer[0] - 1]:
                del tracked[old]
        assert list(tracked) == [4, 5] and not (getattr(session.state, "objects", None))

    both(models, folder, freeing)


def edited(session):
    """Tensors changed in place, another number of frames, a copy that goes its own way."""
    session.points(0, 1, (60, 40, 1))
    session.propagate(max_frame_num_to_track=2)
    state = session.state
    with torch.inference_mode():
        state["output_dict_per_obj"][0]["non_cond_frame_outputs"][2]["maskmem_features"].mul_(0.5)
        state["output_dict_per_obj"][0]["cond_frame_outputs"][0]["pred_masks"].neg_()
    session.state = copy.deepcopy(state)
    session.points(1, 2, box=[20, 20, 70, 60])
    state["num_frames"] = 5
    for one in (session.state, state):
        session.state = one
        session.propagate(start_frame_idx=2)
    assert list(state["obj_ids"]) == [1]


def test_edits_of_the_dict(models, folder):
    both(models, folder, edited)


@pytest.mark.parametrize("shallow", [dict, methodcaller("copy")])
def test_a_shallow_copy(models, folder, shallow):
    def copied(session):
        session.points(0, 1, (60, 40, 1))
        session.propagate(max_frame_num_to_track=2)
        state, session.state = session.state, shallow(session.state)
        session.state["num_frames"] = 5
        session.points(1, 2, box=[20, 20, 70, 60])
        session.propagate(start_frame_idx=2)
        assert type(session.state) is dict and state["num_frames"] == 6
        assert state["output_dict_per_obj"] is session.state["output_dict_per_obj"]

    both(models, folder, copied)


@pytest.mark.parametrize("source", ["folder", "video"])
def test_a_pickled_session_goes_on(models, folder, source, tmp_path):
    ours = models[1]
    frames = str(folder)
    if source == "video":
        pytest.importorskip("av")
        import moving_shapes

        frames = str(moving_shapes.write_video(tmp_path / "video.mp4", clip(6)))
    s = Session(ours, frames)
    s.points(0, 1, (60, 40, 1))
    s.propagate(max_frame_num_to_track=2)
    other = Session(ours, frames)
    other.state = pickle.loads(pickle.dumps(s.state))
    for session in (s, other):
        session.records.clear()
        session.propagate(start_frame_idx=3)
    for a, b in zip(s.records, other.records, strict=True):
        assert torch.equal(a.masks, b.masks)


def test_saving_and_scores_are_refused(models, folder, tmp_path):
    ours = models[1]
    s = Session(ours, folder)
    s.points(0, 1, (60, 40, 1))
    s.state["constants"]
    with pytest.raises(ValueError, match="this session is the official dict"):
        ours.save_state(s.state, tmp_path / "file")
    with pytest.raises(RuntimeError, match="return_scores=True"):
        list(ours.propagate_in_video(s.state, return_scores=True, progress=False))


@pytest.mark.parametrize("where", ["instance", "class", "subclass"])
@torch.no_grad()
def test_the_image_predictor_calls_forward_image(models, where, monkeypatch):
    image, found = clip(1)[0], []
    for model, kind in zip(models, (OfficialImagePredictor, SAM2ImagePredictor), strict=True):
        original = type(model).forward_image

        def brighter(self, images, original=original):
            return original(self, images * 1.5)

        override(model, {"forward_image": brighter}, where, monkeypatch)
        predictor = kind(model)
        predictor._bb_feat_sizes = [(SMALL // 4,) * 2, (SMALL // 8,) * 2, (SMALL // 16,) * 2]
        predictor.set_image(image)
        found.append(predictor.predict(np.array([[60, 40]]), np.array([1]), return_logits=True)[0])
    assert relative_error(*map(torch.from_numpy, found)) <= 1e-4


def own_dict(model, images):
    """A session as programs build it that hold frames in memory: a dict with the official keys."""
    session = {"images": images, "num_frames": len(images), "video_height": 90, "video_width": 120, "obj_ids": []}
    session |= {key: torch.device("cpu") for key in ("device", "storage_device")}
    names = ("point_inputs", "mask_inputs", "output_dict", "temp_output_dict", "frames_tracked")
    session |= {f"{name}_per_obj": {} for name in names}
    session |= {key: {} for key in ("cached_features", "constants", "obj_id_to_idx", "obj_idx_to_id")}
    model._get_image_feature(session, frame_idx=0, batch_size=1)
    return session


def test_a_callers_own_dict(models, folder):
    """Also with frames that are appended while it is tracked; the dict itself is read and written."""
    images = [SAM2Transforms(SMALL, 0.0)(image) for image in clip(6)]

    def streamed(session):
        session.state = own_dict(session.predictor, images[:3])
        session.points(0, 1, (60, 40, 1))
        session.propagate()
        session.state["images"] += images[3:]
        session.state["num_frames"] = 6
        session.mask(3, "b", np.eye(90, 120))
        session.propagate(start_frame_idx=3)
        assert list(session.state["output_dict_per_obj"][0]["non_cond_frame_outputs"]) == [1, 2, 3, 4, 5]
        assert session.predictor._obj_id_to_idx(session.state, "c") == 2
        session.remove("c")
        session.clear(3, "b")
        session.reset()
        assert session.state["obj_ids"] == []

    both(models, folder, streamed)
    session = own_dict(models[1], images)
    del session["frames_tracked_per_obj"]
    with pytest.raises(TypeError, match="a dict without 'frames_tracked_per_obj'; expected the session that"):
        models[1].add_new_points_or_box(session, 0, 1, [[60, 40]], [1])


def test_the_originals_dict_can_be_emptied(models, folder):
    state = models[1].init_state(str(folder))
    state["constants"]
    state.clear()
    assert not state.official and len(state) == 0
