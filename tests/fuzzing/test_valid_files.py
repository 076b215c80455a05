"""The valid files that are mutated: equal in every process, and accepted by their readers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("the readers' limits and what they take are Linux's", allow_module_level=True)

FOLDER = Path(__file__).parent


def printed(code: str, **variables: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(FOLDER), **variables}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


# Several times, since randomness may not show in the first videos.
DIGESTS = """
import hashlib, seeds_media
for make in (seeds_media.videos, seeds_media.images, seeds_media.masks):
    for number, data in enumerate(make()):
        print(make.__name__, number, hashlib.sha256(data).hexdigest())
for _ in range(20):
    assert len({seeds_media.video(*kind) for kind in seeds_media.VIDEO_FORMATS[:3] * 2}) == 3
assert all(options["mbtree"] == "0" for _, codec, options, *_ in seeds_media.VIDEO_FORMATS if codec == "libx264")
"""


def test_videos_and_images_are_the_same_bytes_in_every_process() -> None:
    assert printed(DIGESTS, PYTHONHASHSEED="1") == printed(DIGESTS, PYTHONHASHSEED="2")


VERDICTS = """
import sys
from pathlib import Path
from types import SimpleNamespace
sys.modules["targets"] = SimpleNamespace(TARGETS={}, Target=None, mutators_of=None)
from cases import ACCEPTED, FINDING, REFUSED, Verdict, judge_sound

def judged(target, file, outcome):
    return judge_sound(Verdict(-1, target, outcome, "x"), Path("seeds/kind") / file)

assert judged("open_frames", "00", ACCEPTED).outcome == ACCEPTED
assert judged("open_frames", "16", REFUSED).outcome == REFUSED
lost, led_on = judged("open_frames", "00", REFUSED), judged("open_frames", "16", ACCEPTED)
assert lost.outcome == led_on.outcome == FINDING, "an unexpected answer to a valid file is no finding"
assert "kind/00 is refused, not accepted" in lost.what and "kind/16 is accepted, not refused" in led_on.what
assert judged("open_frames", "00", FINDING).what == "x"
"""


def test_a_refused_valid_file_is_a_finding() -> None:
    printed(VERDICTS)


NAMES = """
import expected_refusals
from targets import TARGETS
assert expected_refusals.REFUSED.keys() <= TARGETS.keys(), expected_refusals.REFUSED.keys() - TARGETS.keys()
"""


@pytest.mark.long
def test_expected_refusals_name_existing_readers() -> None:
    printed(NAMES)


YAMLS = """
from random import Random
import yamls
deep = b"model: " + b"[" * 700 + b"]" * 700
for seed in range(30):
    yamls.yaml_values(deep, Random(seed), ())
"""


def test_deeply_nested_values_do_not_end_the_campaign() -> None:
    printed(YAMLS)
