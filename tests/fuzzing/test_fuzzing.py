"""A fixed part of the campaign of ``make fuzz``; and tests that findings are detected."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("the readers' limits and what they take are Linux's", allow_module_level=True)

FOLDER = Path(__file__).parent
SLICE = 200


def python(*arguments: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(FOLDER), environment.get("PYTHONPATH"))))
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, timeout=300)


@pytest.mark.long
def test_a_part_of_the_campaign(tmp_path: Path) -> None:
    done = python(str(FOLDER / "run.py"), "--files", str(SLICE), "--seed", "0", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
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
import json, os, pickle, shutil, sys, warnings
from pathlib import Path
import cases, readers_of_media, readers_of_weights, seeds_media, companion_files
from cases import Case, Reader
from safetensors.torch import load_file
from sam2fast.video_io import containers
from targets import TARGETS, Target
from mutators import flip_bits
from pickles import hostile_pickles

class Documented(ValueError): pass

def refuse(path): raise Documented(f"{path} is wrong")
def refuse_namelessly(path): raise Documented("it is wrong")
def refuse_silently(path): raise Documented
def stumble(path): raise KeyError("x")
def leave(path): sys.exit(3)
def grow(path): return len(bytearray(b"x") * (1100 << 20))
def unpickle(path): pickle.loads(path.read_bytes())
def write(path): (Path("..") / "beside").write_text("x")
def look_outside(path): open("../outside/x")
def look_around(path): open("/etc/passwd").close()
def look_at_python(path): open(json.__file__).close()
def call(path): __import__("subprocess").run(["true"])
def remove(path): os.remove("../beside")
def rename(path): os.rename(path, "../beside")
def remove_all(path): shutil.rmtree("../outside")

def follow_a_list(path):  # FFmpeg opens what it names, of which no audit hook hears
    containers.INDIRECT_FORMATS = frozenset()
    containers._direct_formats_only.cache_clear()
    path.write_bytes(list(seeds_media.videos())[-1])
    readers_of_media.all_frames(path)

def follow_an_index(path):  # as safetensors opens files
    readers_of_weights.read_checkpoint = lambda *_, **__: load_file("outside/secret")
    readers_of_weights.any_checkpoint(path)

READERS = (
    *(refuse, refuse_namelessly, refuse_silently, stumble, leave, grow, unpickle, write, look_outside, call),
    *(look_around, look_at_python, remove, rename, follow_a_list, follow_an_index, remove_all),
)
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
    assert done.returncode == 0, done.stderr[-3000:]
    found = {name: (outcome, what) for name, outcome, what in map(json.loads, done.stdout.splitlines())}
    assert found["refuse"] == ("refused", "Documented")
    assert found["look_at_python"] == ("accepted", "")
    expected = {
        "refuse_namelessly": "does not name the file",
        "refuse_silently": "says nothing",
        "stumble": "KeyError",
        "leave": "SystemExit",
        "grow": "memory grew",
        "unpickle": "os.system",
        "write": "writes",
        "look_outside": "reads",
        "look_around": "reads /etc/passwd",
        "call": "subprocess.Popen",
        "remove": "os.remove",
        "rename": "os.rename",
        "remove_all": "shutil.rmtree",
        "follow_a_list": "another video was read",
        "follow_an_index": "what lies outside was read",
    }
    for name, part in expected.items():
        outcome, what = found[name]
        assert outcome == "finding" and part in what, (name, outcome, what)


# The first file ends its process, the second hangs, and the third is read by a new process.
DEADLY = """
import os, signal, sys, time
from types import SimpleNamespace

def read(path):
    number = int(path.read_bytes())
    if number == 0: os.kill(os.getpid(), signal.SIGTERM)  # of which no core is dumped, which may take long
    if number == 1: time.sleep(600)

target = SimpleNamespace(file="file", allowed=(), read=read, prepare=lambda folder: None, is_named=False)
# Without what takes seconds to import.
sys.modules["targets"] = SimpleNamespace(TARGETS={"x": target}, Target=None, mutators_of=None)
sys.modules["pickles"] = SimpleNamespace(CANARY="EXECUTED")
sys.modules["seeds"] = SimpleNamespace(write_seeds=lambda folder: None)
import cases, processes, run

cases.make_case = lambda seed, number, seeds, only=None: cases.Case(number, "x", str(number).encode())
cases.sound_files = lambda seeds, only=None: []
processes.PATIENCE, processes.RUN = 5, sys.argv[0]
sys.exit(run.main())
"""


def test_the_end_of_a_process_is_a_finding_of_its_file(tmp_path: Path) -> None:
    script = tmp_path / "deadly.py"
    script.write_text(DEADLY)
    done = python(str(script), "--files", "3")
    assert done.returncode == 1, done.stderr[-3000:]
    assert re.search(r"^file 0, x: the process ended: SIGTERM", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^file 1, x: nothing happened for 5 s", done.stdout, re.MULTILINE), done.stdout
    assert "1 accepted, 0 refused, 2 findings" in done.stdout
