"""A fixed part of the campaign of ``make fuzz``; and a test that findings are detected."""

import json
import os
from pathlib import Path

import pytest
from killed import Ended, started

FOLDER = Path(__file__).parent
SLICE = 200


def python(*arguments: str) -> Ended:
    path = os.pathsep.join(filter(None, (str(FOLDER), os.environ.get("PYTHONPATH"))))
    return started(
        arguments, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": path}
    )


@pytest.mark.long
def test_a_part_of_the_campaign(tmp_path: Path) -> None:
    done = python(str(FOLDER / "run.py"), "--files", str(SLICE), "--seed", "0", "--out", str(tmp_path))
    assert done.code == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (path,) = tmp_path.glob("fuzz-cpu-*.json")
    report = json.loads(path.read_text())
    assert (report["files"], report["seed"], report["findings"]) == (SLICE, 0, [])
    assert report["machine"]["commit"] and report["machine"]["libraries"]["av"]
    # Both harmless and harmful changes must occur.
    assert report["accepted"] + report["refused"] == SLICE and min(report["accepted"], report["refused"]) > SLICE // 10
    assert sum(counts[name] for counts in report["targets"].values() for name in counts) == SLICE
    assert report["sound"]["accepted"] > 250 and report["sound"]["finding"] == 0


# Misbehaving readers, each with a file that triggers it.
PLANTED = """
import json, pickle, sys
from pathlib import Path
import readers_of_media, readers_of_weights, seeds_media, companion_files
from cases import Case, Reader
from safetensors.torch import load_file
from sam2fast.video_io import containers
from targets import TARGETS, Target
from pickles import hostile_pickles

class Documented(ValueError): pass

def refuse(path): raise Documented(f"{path} is wrong")
def refuse_namelessly(path): raise Documented("it is wrong")
def stumble(path): raise KeyError("x")
def grow(path): return len(bytearray(b"x") * (1100 << 20))
def unpickle(path): pickle.loads(path.read_bytes())
def write(path): (Path("..") / "beside").write_text("x")
def look_around(path): open("/etc/passwd").close()

def follow_a_list(path):  # FFmpeg opens what it names, of which no audit hook hears
    containers.INDIRECT_FORMATS = frozenset()
    containers._direct_formats_only.cache_clear()
    path.write_bytes(list(seeds_media.videos())[-1])
    readers_of_media.all_frames(path)

def follow_an_index(path):  # as safetensors opens files
    readers_of_weights.read_checkpoint = lambda *_, **__: load_file("outside/secret")
    readers_of_weights.any_checkpoint(path)

READERS = refuse, refuse_namelessly, stumble, grow, unpickle, write, look_around, follow_a_list, follow_an_index
TARGETS.update({f.__name__: Target("x", "file", (Documented, OSError), f, is_named=True) for f in READERS})
reader = Reader(Path(sys.argv[1]) / "work")
companion_files.secret(Path("follow_a_list"))
companion_files.with_weights(Path("follow_an_index"))
for number, f in enumerate(READERS):
    verdict = reader.read(Case(number, f.__name__, hostile_pickles()[0]))
    print(json.dumps([f.__name__, verdict.outcome, verdict.what]))
"""


def test_findings_are_detected(tmp_path: Path) -> None:
    done = python("-c", PLANTED, str(tmp_path / "outside"))  # part of the names of all files
    assert done.code == 0, done.stderr[-3000:]
    found = {name: (outcome, what) for name, outcome, what in map(json.loads, done.stdout.splitlines())}
    assert found.pop("refuse") == ("refused", "Documented")
    expected = {
        "refuse_namelessly": "does not name the file",
        "stumble": "KeyError",
        "grow": "memory grew",
        "unpickle": "os.system",
        "write": "writes",
        "look_around": "reads /etc/passwd",
        "follow_a_list": "another video was read",
        "follow_an_index": "what lies outside was read",
    }
    assert found.keys() == expected.keys()
    for name, (outcome, what) in found.items():
        assert outcome == "finding" and expected[name] in what, (name, outcome, what)
