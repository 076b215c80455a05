"""``sam2fast track`` killed, stopped and hung up: its files stay valid, and the next run continues."""

import json
import os
import select
import shutil
import signal
from contextlib import closing
from functools import partial

import moving_shapes
import pytest
from command_kills import TrackKills
from commands import act_at
from disturbed import after_signal, left_whole
from killed import SECONDS_TO_END, Fault, forked, start

from sam2fast.cli import main, track_overlay, track_passes, track_workers
from sam2fast.cli.track_folder import RunFolder
from sam2fast.deploy.parallel.runners import in_this_process

FRAMES, FIRST, LATER = 5, 1, 2
FIRST_STATE = ".state_00001.safetensors"  # the state after the first frame, while it is saved
# The command, which reports when it is importing torch, and waits there.
AMID_TORCH = """
import runpy, sys, time

class Waits:
    @staticmethod
    def find_spec(name, path, target=None):
        if name == "torch.nn":
            print("importing", flush=True)
            time.sleep(300)

sys.meta_path.insert(0, Waits)
runpy.run_module("sam2fast", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def kills(tmp_path_factory):
    with closing(TrackKills(tmp_path_factory.mktemp("track"), FRAMES, FIRST, LATER)) as subject:
        yield subject


def hidden(folder):
    return sorted(name for name in os.listdir(folder) if name.startswith("."))


def test_killed_while_saving_the_state(kills, out):
    """Neither the partial state nor the temporary file of safetensors stays."""
    whole = kills.whole("whole")
    largest = max(len(content) for content in whole.values())
    ended = forked(kills.command(out, "whole", between=0.0, formats="json"), Fault(size=largest))
    assert ended.code == -signal.SIGXFSZ
    (left,) = hidden(out)
    assert left.startswith(".state_00001.safetensors.") and left.endswith(".part")
    kills.goes_on(out, "whole")


def test_killed_before_removing_states(out):
    """The next run removes them."""

    def work():
        folder = RunFolder(out, {"asked": 1}, False)
        folder.begin()
        with folder.recording():
            folder.append({"objects": []})
            folder.checkpoint(lambda path: path.write_bytes(b"a state"))
            folder.backward.write_bytes(b"another")
            folder.finish()

    left, code = set(), -signal.SIGKILL
    for change in range(12, 30):  # from the last one before a run is finished
        if code == 0:
            break
        code = forked(work, Fault(change, out)).code
        folder = RunFolder(out, {"asked": 1}, False)
        if folder.complete:
            left.update(os.listdir(out))
            folder.begin()
            assert sorted(os.listdir(out)) == ["masks.jsonl", "track.json"]
        shutil.rmtree(out)
    assert code == 0 and {"backward.safetensors", "state_00001.safetensors"} <= left


def test_stopped_while_it_tracks(kills, out):
    ended = forked(kills.command(out, "whole", between=0.0), Fault(None, out, signal.SIGINT, name=FIRST_STATE))
    after_signal(kills.without_notes(ended), [signal.SIGINT])
    assert ended.code == 130 and "run the same command again to continue" in ended.stderr
    done = json.loads((out / "track.json").read_text())["done"]
    assert done == 2 and len(moving_shapes.decoded(out / "overlay.mp4")[0]) == FIRST + done
    assert hidden(out) == []
    left_whole(out)


def test_stopped_while_it_draws(kills, out):
    """The partial overlay is removed."""

    def work():
        patch, stop = pytest.MonkeyPatch(), partial(os.kill, os.getpid(), signal.SIGTERM)
        act_at(patch, track_overlay.OverlayWriter, "add", 4, stop)
        kills.command(out, "whole", formats="json,overlay")()

    ended = forked(work)
    assert (ended.code, ended.stderr) == (143, "sam2fast: interrupted; run the same command again to continue\n")
    assert sorted(os.listdir(out)) == ["masks.jsonl", "track.json"]


def test_a_second_signal_ends_immediately(kills, out):
    """Also another signal, and while the first is handled."""

    def save(passes, path):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal was not handled")

    def work():
        track_passes.VideoPropagation.save = save
        kills.command(out, "whole", 0.0, formats="json")()

    ended = forked(work)
    assert ended.code == 143 and "Traceback" not in ended.stderr
    assert hidden(out) == [] and json.loads((out / "track.json").read_text())["done"] == 0


def test_ignored_signals_stay_ignored(kills, out):
    """As under nohup and in the background of a script."""

    finish = track_overlay.OverlayWriter.finish

    def interrupted(video):
        os.kill(os.getpid(), signal.SIGINT)
        finish(video)

    def work():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        track_overlay.OverlayWriter.finish = interrupted
        kills.command(out, "whole", 0.0, formats="json,overlay")()

    ended = forked(work, Fault(None, out, signal.SIGHUP, name=FIRST_STATE))
    assert (ended.code, ended.stderr) == (0, "")


def test_interrupted_while_torch_is_imported(kills, out):
    """One line and exit code 130, without a traceback."""
    process = start(["-c", AMID_TORCH, *kills.arguments(out, "whole")])
    try:
        assert select.select([process.stdout], [], [], SECONDS_TO_END)[0]
        assert process.stdout.readline() == b"importing\n"
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=SECONDS_TO_END)
    finally:
        process.kill()
    assert (process.returncode, stderr) == (130, b"sam2fast: interrupted; run the same command again to continue\n")
    assert not out.exists()


def unheard(command, *ends):
    """The command, while nobody reads these of its outputs."""

    def work():
        reading, writing = os.pipe()
        os.close(reading)
        for end in ends:
            os.dup2(writing, end)
        command()

    return work


def test_closed_stdout(kills, out):
    """As by ``| head -0``: all work is done without a traceback."""
    ended = forked(unheard(kills.command(out, "whole"), 1))
    assert (ended.code, kills.without_notes(ended).stderr) == (1, "")
    left_whole(out)
    assert "0 frames tracked" in kills.goes_on(out, "whole").stdout


def test_the_terminal_is_gone(kills, out):
    """Closing the terminal sends SIGHUP, and output fails; the tracked frames are saved."""
    work = unheard(kills.command(out, "whole", 0.0, formats="json"), 1, 2)
    assert forked(work, Fault(None, out, signal.SIGHUP, name=FIRST_STATE)).code == 129
    assert json.loads((out / "track.json").read_text())["done"] == 2


def test_the_terminal_is_gone_while_several_videos_are_tracked(kills, out, tmp_path):
    shutil.copy(kills.video, tmp_path / "again.mp4")
    arguments = ["track", tmp_path / "again.mp4", *kills.arguments(out, "whole", formats="json")[1:], "--at-once", 2]

    def work():
        patch = pytest.MonkeyPatch()
        patch.setattr("sam2fast.cli.track.on_devices", lambda device, **_: in_this_process(device))
        act_at(patch, track_workers, "_outcome", 1, partial(signal.raise_signal, signal.SIGHUP))
        main(list(map(str, arguments)), prog_name="sam2fast")

    assert forked(unheard(work, 1, 2)).code == 129
    assert json.loads((out / "again/track.json").read_text())["complete"] and not (out / "video").exists()
