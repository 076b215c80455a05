"""The trainer and the demo's server continue after a failed call."""

from pathlib import Path
from typing import Any

import moving_shapes
import numpy as np
import pytest
import small_training
import torch
from chosen_places import some_asked
from comparable import plain
from demo_client import DemoClient, Refusal
from disturbed_calls import known_of_state, video_predictor
from injected_memory import FailingOps

from sam2fast.demo.server.app import SERVICE, make_app
from sam2fast.demo.server.library import GALLERY
from sam2fast.demo.server.model_thread import ModelThread
from sam2fast.demo.server.settings import ServerSettings
from sam2fast.training.trainer import Trainer


def known_of_training(trainer: Trainer) -> Any:
    """Weights with auxiliary heads, the optimizer's moments, the average and the counters."""
    assert trainer.ema is not None
    moments = trainer.optimizer.optimizer.state_dict()["state"]
    trained = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    weights = [*trained, *trainer.model.state_dict().values()]
    return plain([weights, moments, trainer.ema.average, trainer.steps, trainer.steps_in_epoch])


def test_a_failed_update_changes_nothing(tmp_path):
    """For two batches. A failure before the optimizer steps changes no weights, moments or averages."""
    trainers = [small_training.build(tmp_path / name, "+trainer.optim.accumulate=2") for name in ("right", "failing")]
    for trainer in trainers:
        trainer._start()
        trainer.model.train()
        batches = list(trainer.data["train"].epoch(0, 0))[:2]
        trainer._update(iter(batches))
    right, trainer = trainers
    before, ops = known_of_training(trainer), FailingOps()
    begun: list[int] = []
    right.optimizer.optimizer.register_step_pre_hook(lambda *_: begun.append(ops.count))
    assert known_of_training(right) == before
    with ops:
        values = right._update(iter(batches))
    for at in some_asked(1, begun[0]):
        with pytest.raises(torch.OutOfMemoryError), FailingOps(at):
            trainer._update(iter(batches))
        assert known_of_training(trainer) == before, at
    assert trainer._update(iter(batches)) == values
    assert known_of_training(trainer) == known_of_training(right)


@pytest.fixture
def demo(tmp_path: Path) -> Any:
    (tmp_path / GALLERY).mkdir()
    moving_shapes.write_video(tmp_path / GALLERY / "clip.mp4", moving_shapes.make_frames(3))
    app = make_app(ServerSettings(tmp_path), video_predictor())
    yield app
    app.extensions[SERVICE].close()


def test_a_request_without_memory(demo, monkeypatch):
    """The request fails, the session is unchanged, and the same request succeeds once there is memory."""
    client, sessions = DemoClient(demo.test_client()), demo.extensions[SERVICE].sessions
    expected = client.add(client.start())
    session = client.start()
    count, real = 0, ModelThread._run

    def run_failing(at: int | None) -> Any:
        def run(self: ModelThread, function: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal count
            with FailingOps(at) as ops:
                try:
                    return real(self, function, *args, **kwargs)
                finally:
                    count = ops.count

        return run

    with monkeypatch.context() as patch:
        patch.setattr(ModelThread, "_run", run_failing(None))
        client.add(client.start())
    # One of them is after the predictor's call, while the masks are encoded.
    for at in sorted({*some_asked(1, count), count - 1}):
        known = known_of_state(sessions.get(session).state), dict(sessions.get(session).masks)
        with monkeypatch.context() as patch:
            patch.setattr(ModelThread, "_run", run_failing(at))
            refused = client.add(session)
        assert isinstance(refused, Refusal) and refused.status in (200, 500, 503), refused
        assert (known_of_state(sessions.get(session).state), dict(sessions.get(session).masks)) == known
    found = client.add(session)
    assert found.keys() == expected.keys()
    for frame_or_object, mask in expected.items():
        np.testing.assert_array_equal(found[frame_or_object], mask)
