"""Before it tracks a blank video, a warm-up compiles the video's kernels in parallel."""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import fake_cuda
import pytest

from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.engine.derived import TensorCache
from sam2fast.tracking import propagation

SCRIPT = Path(__file__).parents[1] / "support/warmed_kernels.py"


@pytest.mark.slow
def test_kernels_are_in_tritons_cache_when_they_are_launched(tmp_path):
    pytest.importorskip("triton.runtime.cache", reason="needs Triton's compiler")
    env = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    env.pop("TRITON_INTERPRET", None)
    for processes in (2, 0):  # the second time all are there
        done = subprocess.run([sys.executable, SCRIPT], env=env, check=True, capture_output=True, text=True)
        printed = json.loads(done.stdout)
        assert printed["kernels"] == printed["in the cache"] > 20 and printed["processes"] == processes


def caches():
    return [x for x in gc.get_objects() if type(x) is TensorCache]


def test_a_rehearsal_leaves_nothing(monkeypatch):
    """Its kernels have not run, so that what it computes is of any value."""
    seen, others = [], caches()

    def look(launches):
        own = [x for x in caches() if not any(x is other for other in others)]
        kept = [x for x in own if x._entry is not None]
        seen.append((len(own) > 5, kept, [*predictor._tracker.steps._used, *predictor._tracker.steps._idle]))

    monkeypatch.setattr(propagation, "compile_in_processes", look)
    with fake_cuda.fake_cuda() as cuda:
        predictor = fake_cuda.build(
            build_sam2_video_predictor, "configs/nano/sam2fast_nano.yaml", hydra_overrides_extra=fake_cuda.SHALLOW
        )
        with cuda.watched() as rehearsed:
            predictor.warmup(2)
        assert seen == [(True, [], [])]
        assert rehearsed.replays > 0 and rehearsed.launches["_attend_kernel"]
        assert predictor._tracker.steps._idle or predictor._tracker.steps._used, "of the warm-up itself"


def test_elsewhere_nothing_is_rehearsed(plain, monkeypatch):
    monkeypatch.setattr(propagation, "collecting", None)
    plain.warmup(1)
