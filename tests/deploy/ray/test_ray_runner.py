"""Jobs on a real Ray: none is lost, none accumulates, errors are reported, and no process is left."""

import functools
import logging
import os
import signal
import tempfile
import threading
import time
from pathlib import Path

import parallel_jobs
import pytest
from cluster_commands import MASKS, NANO, masks_of
from file_contents import files_of
from killed import start
from parallel_jobs import build_nothing
from small_ray import STORE_BYTES, command_of, importable, slots_of
from vos_sets import write_masks, write_video
from waiting import is_alive, wait_until

from sam2fast.deploy.parallel import WorkerError
from sam2fast.deploy.ray import ClusterError, on_ray, ray_session, ray_workers

pytestmark = [pytest.mark.usefixtures("ray_folder")]


def test_a_killed_worker_loses_no_job(tmp_path, caplog):
    """Another worker runs its job, a new one replaces it, and this is logged."""
    jobs, results = [(number, str(tmp_path)) for number in range(8)], []
    for result in on_ray(workers=1)(parallel_jobs.killed_when_seen, jobs, build_nothing, ordered=True):
        results.append(result)
        (tmp_path / f"seen-{result.index}").touch()
    (told,) = (record.getMessage() for record in caplog.records if record.name == "sam2fast")
    assert told.startswith("the worker on ") and told.endswith("; another worker replaces it")
    assert (tmp_path / "killed").exists()
    assert [r.value[0] for r in results] == list(range(8))
    pids = [r.value[1] for r in results]
    assert pids[:2] == [pids[0]] * 2 and pids[2:] == [pids[2]] * 6 and pids[0] != pids[2]


def test_a_worker_inherits_the_commands_environment(tmp_path, monkeypatch):
    """Working folder, variables and threads are set before torch is loaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAM2FAST_MINE", "yes")
    (result,) = on_ray(workers=1, threads=3)(parallel_jobs.where, [0], build_nothing)
    assert result.unwrap() == (str(tmp_path), "yes", "3", False)


def test_another_version_on_a_machine(monkeypatch):
    monkeypatch.setattr(ray_workers, "__version__", "0.0.1")
    with pytest.raises(WorkerError, match=r"has sam2fast .*, but the driver has 0\.0\.1; install the same"):
        list(on_ray(workers=1)(parallel_jobs.square, [1], build_nothing))


def test_room():
    nodes = [{"Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0}}, {"Alive": True, "Resources": {"CPU": 3.0}}]
    assert ray_session.room(nodes, cpus=1, gpus=0) == 11
    assert ray_session.room(nodes, cpus=1, gpus=1) == 2 and ray_session.room(nodes, cpus=1, gpus=0.5) == 4
    with pytest.raises(ClusterError, match="no node of the Ray at local has 1 CPUs and 1 GPUs"):
        list(on_ray(gpus=1)(parallel_jobs.square, [1], build_nothing))


def test_number_of_workers(monkeypatch, tmp_path):
    """By default as many as fit on the nodes, more when nodes join, and never more than jobs."""
    hired = []

    class Noted(ray_workers.RayWorker):
        def __init__(self, *args, **kwargs):
            hired.append(time.monotonic())
            super().__init__(*args, **kwargs)

    monkeypatch.setattr("sam2fast.deploy.ray.ray_runner.RayWorker", Noted)
    assert [r.value[0] for r in on_ray()(parallel_jobs.square, [2], build_nothing)] == [4]
    assert len(hired) == 1
    monkeypatch.setattr(ray_workers, "SECONDS_BETWEEN_CHECKS", 0.2)
    places = iter([1, 1])  # then a node joins
    monkeypatch.setattr("sam2fast.deploy.ray.ray_runner.room", lambda nodes, cpus, gpus: next(places, 2))
    hired.clear()
    results = list(on_ray()(parallel_jobs.in_company, [str(tmp_path)] * 12, build_nothing))
    assert len(hired) == 2 and len({r.value for r in results}) == 2


def test_a_long_wait_is_logged(monkeypatch, caplog):
    monkeypatch.setattr(ray_workers, "SECONDS_BETWEEN_CHECKS", 0.05)
    monkeypatch.setattr(ray_workers, "SECONDS_TO_WARNING", 0.1)
    build = functools.partial(parallel_jobs.build_late, seconds=1.0)
    with caplog.at_level(logging.WARNING, logger="sam2fast"):
        list(on_ray(workers=1)(parallel_jobs.square, [1], build))
    assert [record.getMessage()[:26] for record in caplog.records] == ["no worker has begun after "]


@pytest.mark.parametrize(
    ("name", "value"), [("workers", 0), ("cpus", 0), ("threads", 0), ("gpus", -1), ("address", "ray://head:10001")]
)
def test_arguments(name, value):
    with pytest.raises(ValueError, match="Ray's client" if name == "address" else f"{name} is {value}"):
        on_ray(**{name: value})


def test_masks_by_command_when_a_worker_is_killed(ray_folder, run, photos, expected, tmp_path):
    """By SIGKILL, halfway through a run that resumes an interrupted one."""
    assert run("masks", "photos/a.png", "photos/b.png", *MASKS, "--out", "ray").exit_code == 0
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "ray").glob("*.png")}
    (tmp_path / "ray/b_masks.png").unlink()  # so that this one is unfinished
    killed = []

    def kill():
        deadline = time.monotonic() + 100
        while len(list((tmp_path / "ray").glob("*_overlay.png"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        killed.extend(slots_of(ray_folder)[:1])
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    result = run("masks", "photos", *MASKS, "--ray", "local", "--workers", "2", "--out", "ray", "--resume")
    thread.join()
    assert killed and result.exit_code == 1 and "1 of 7 images had problems" in result.stderr
    assert "1 of 7 images were done before" in result.stderr and result.stdout.split("time:")[0] == expected
    assert files_of(tmp_path / "ray", "*.png") == files_of(tmp_path / "one", "*.png") != {}
    assert masks_of(tmp_path / "ray") == masks_of(tmp_path / "one")
    assert len(masks_of(tmp_path / "ray")["annotations"]) > 6
    changed = {file.name for file, changed in before.items() if file.stat().st_mtime_ns != changed}
    assert changed == {"b_masks.png", "b_overlay.png"}


def test_videos_by_command(run, tmp_path):
    """The same results as one worker without Ray."""
    for name, frames in {"a": 3, "b": 2, "c": 1}.items():
        write_video(tmp_path / "videos" / name, frames, seed=frames)
        write_masks(tmp_path / "masks" / name, {0: {1: (30, 30, 18), 3: (80, 50, 20)}})
    (tmp_path / "masks/b/00000.png").write_text("no image")
    ask = ["vos", "--videos", "videos", "--masks", "masks", *NANO]
    one = run(*ask, "--out", "one")
    there = run(*ask, "--ray", "local", "--workers", "1", "--out", "ray")
    assert there.exit_code == one.exit_code == 1 and "1 of 3 videos had problems" in there.stderr
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "one") and len(files_of(tmp_path / "ray")) >= 4
    contradiction = run(*ask, "--ray", "local", "--at-once", "2", "--out", "ray")
    assert contradiction.exit_code == 2 and "--at-once is for devices of this machine" in contradiction.stderr


SCRIPT = f"""
import sys
from pathlib import Path
from parallel_jobs import build_nothing, note_and_sleep
from sam2fast.deploy.ray import ClusterError, on_ray

if __name__ == "__main__":
    try:
        list(on_ray("127.0.0.1:1")(note_and_sleep, [0], build_nothing))
    except ClusterError as error:
        print(error, flush=True)
    local = on_ray("local", workers=2, store_bytes={STORE_BYTES}, temp_dir=Path(sys.argv[2]))
    list(local(note_and_sleep, [sys.argv[1]] * 4, build_nothing))
"""


def test_ctrl_c_ends_everything(tmp_path):
    """Actors and Ray end; before that, a missing cluster is an error of one line."""
    script, notes, home = tmp_path / "script.py", tmp_path / "notes", tmp_path / "home"
    script.write_text(SCRIPT)
    notes.mkdir()
    home.mkdir()
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder, importable():
        process = start([str(script), str(notes), folder], env={**os.environ, "HOME": str(home)})
        deadline = time.monotonic() + 90
        while len(workers := {int(name) for name in os.listdir(notes)}) < 2:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = (text.decode() for text in process.communicate(timeout=60))
        assert process.returncode != 0 and "KeyboardInterrupt" in stderr
        assert stdout.startswith("no Ray can be reached at 127.0.0.1:1; expected local, auto, or HOST:PORT")
        assert stdout.count("\n") == 1 and not list(home.iterdir())
        left = {int(p.name) for p in Path("/proc").iterdir() if p.name.isdecimal() and folder in command_of(p)}
        assert wait_until(lambda: not any(is_alive(pid) for pid in workers | left))
