"""``sam2fast serve`` as a process: disconnecting clients, shutdown, and options."""

import re
import signal
import socket
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import moving_shapes
import numpy as np
import pytest
from click.testing import CliRunner
from demo_client import ADD, CANCEL, START
from demo_process import DemoProcess, serving
from waiting import wait_until

from sam2fast.cli import main, serve
from sam2fast.demo.server.prompt_limits import MemoryBudget
from sam2fast.demo.server.settings import parse_origin
from sam2fast.io.rle import decode_rle
from sam2fast.sam2_video_predictor import SAM2VideoPredictor

FRAMES = 200  # more than are tracked before the cancel arrives


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    moving_shapes.write_video(folder / "gallery/clip.mp4", moving_shapes.make_frames(FRAMES))
    return folder


@pytest.fixture(scope="module")
def server(data):
    with serving(data, "--model", "nano", threads=2) as process:
        yield process


def start_track(server: DemoProcess) -> tuple[str, socket.socket]:
    """A session whose track has started, and its connection."""
    session = server.mutate(START, path="gallery/clip.mp4")["sessionId"]
    point = {"frameIndex": 0, "clearOldPoints": True, "objectId": 1, "labels": [1], "points": [[0.3, 0.4]]}
    server.mutate(ADD, sessionId=session, **point)
    return session, server.begin_track(session)[0]


def count_tracked(server: DemoProcess, session: str) -> int:
    """Waits for the end of a track; returns the number of its frames."""
    assert wait_until(lambda: not server.get(f"/api/sessions/{session}")["isTracking"])
    return len(server.get(f"/api/sessions/{session}")["trackedFrames"])


def read_rest(connection: socket.socket) -> bytes:
    received = b""
    while block := connection.recv(1 << 16):
        received += block
        if received.endswith(b"0\r\n\r\n"):
            break
    return received


def test_cancel_during_a_stream(server):
    session, connection = start_track(server)
    with connection:
        assert server.mutate(CANCEL, sessionId=session) == {"success": True}
        assert read_rest(connection).endswith(b"0\r\n\r\n")  # the stream is complete
    assert count_tracked(server, session) < FRAMES


@pytest.mark.parametrize("abruptly", [True, False])
def test_a_disconnecting_client_ends_its_track(server, abruptly):
    session, connection = start_track(server)
    if abruptly:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    assert count_tracked(server, session) < FRAMES
    # Others can use the model.
    server.mutate(START, path="gallery/clip.mp4")


def test_the_documents_script(server, tmp_path, capsys, monkeypatch):
    """Runs it with another address and a shorter track."""
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs/serve.md").read_text()
    (script,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    short = script.replace('"start_frame_index": 0}', f'"start_frame_index": {FRAMES - 3}, "direction": "forward"}}')
    exec(compile(short.replace("http://127.0.0.1:7263", server.url), "docs/serve.md", "exec"), {})
    frames = range(FRAMES - 3, FRAMES)
    assert capsys.readouterr().out == "".join(f"{frame} [1]\n" for frame in frames)
    with zipfile.ZipFile("masks.zip") as masks:
        assert masks.namelist() == [f"{frame:05d}.png" for frame in (0, *frames)]


def test_a_strategy(tmp_path):
    """Masks are those of a session with it, on a video longer than the memory; it keeps all frames of each object."""
    count, point = 24, [0.3, 0.4]
    video = moving_shapes.write_video(tmp_path / "gallery/clip.mp4", moving_shapes.make_frames(count))
    predictor = SAM2VideoPredictor.from_pretrained("sam2fast/nano", device="cpu")
    state = predictor.init_state(str(video), strategy="samurai")
    height, width = state.video_size
    predictor.add_new_points_or_box(state, 0, 1, points=[[point[0] * width, point[1] * height]], labels=[1])
    expected = [(logits[0, 0] > 0).numpy() for _, _, logits in predictor.propagate_in_video(state, progress=False)]
    with serving(tmp_path, "--model", "nano", "--strategy", "samurai", "--session-mb", "64") as server:
        assert server.get("/api/limits")["maxObjects"] == MemoryBudget.of(predictor, 64).results // (2 * 240)
        session, connection = start_track(server)
        with connection:
            read_rest(connection)
        assert count_tracked(server, session) == count
        found = server.get(f"/api/sessions/{session}/export?format=coco_rle")
    (annotation,) = found["annotations"]
    assert all(
        np.array_equal(decode_rle(one), mask) for one, mask in zip(annotation["segmentations"], expected, strict=True)
    )


def test_the_serving_process_has_torchs_threads(server):
    """Its parent has not imported torch; otherwise it computes with one thread, and says so."""
    assert "thread" not in server.said, server.said


def test_it_listens_on_loopback_and_checks_the_host(server):
    assert server.url.startswith("http://127.0.0.1:")
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(b"GET /healthy HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 403")


def test_a_port_that_is_taken(server, data, monkeypatch):
    run = CliRunner().invoke(main, ["serve", "--port", str(server.port), "--data", str(data)])
    assert run.exit_code == 1
    assert f"sam2fast: cannot listen on 127.0.0.1:{server.port}: Address already in use" in run.stderr


def test_sigterm_ends_it_during_a_stream(server):
    """The last test with this server. Tracking the whole video would take longer than the timeout."""
    _, connection = start_track(server)
    with connection:
        assert server.end(signal.SIGTERM) == 0
        assert read_rest(connection).count(b"--frame") < FRAMES


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--model", "large"], 3, "sam2.1_hiera_large.pt is not on this machine"),
        (["--allow-origin", "https://demo.example/path"], 2, "is not an origin"),
        (["--api-url", "http://demo.example:x"], 2, "is not an origin"),
        (["--max-seconds", "inf"], 2, "inf is not in the range"),
        (["--session-minutes", "inf"], 2, "inf is not in the range"),
        (["--max-sessions", "0"], 2, "0 is not in the range"),
        (["--data", "file"], 2, "is a file"),
    ],
)
def test_wrong_options(arguments, code, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAM2FAST_CHECKPOINTS", str(tmp_path))
    monkeypatch.setenv("SAM2FAST_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "file").touch()
    run = CliRunner().invoke(main, ["serve", *arguments])
    assert (run.exit_code, message in " ".join(run.stderr.split())) == (code, True), run.stderr


@pytest.mark.parametrize(
    ("host", "origins", "trusted"),
    [
        ("127.0.0.1", [], {"127.0.0.1", "localhost", "::1"}),
        ("0.0.0.0", [], set()),
        ("0.0.0.0", ["https://demo.example:8443"], {"127.0.0.1", "localhost", "::1", "0.0.0.0", "demo.example"}),
        ("127.0.0.1", ["http://[::2]"], {"127.0.0.1", "localhost", "::1", "::2"}),
    ],
)
def test_trusted_hosts(host, origins, trusted):
    assert set(serve._trusted(host, tuple(origins))) == trusted


def test_token():
    """A server for other machines has a random one."""
    assert serve._token("127.0.0.1", None, False) is serve._token("0.0.0.0", None, True) is None
    assert serve._token("127.0.0.1", "secret", False) == serve._token("0.0.0.0", "secret", False) == "secret"
    tokens = {serve._token("0.0.0.0", None, False) for _ in range(3)}
    assert len(tokens) == 3 and min(map(len, tokens)) == 32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--token", "a", "--no-token"], "--token and --no-token contradict each other"),
        (["--token", "a&b"], "letters and digits only"),
        (["--token", ""], "letters and digits only"),
    ],
)
def test_refused_tokens(options, message, tmp_path):
    done = CliRunner().invoke(serve.serve, ["--model", "nano", "--data", str(tmp_path), *options])
    assert done.exit_code == 2 and message in done.output


def test_origins_are_normalised():
    assert parse_origin("https://Demo.Example:443") == "https://demo.example"
    assert parse_origin("HTTP://demo.example:80/") == "http://demo.example"


def test_a_failed_start_is_one_line(tmp_path):
    """The error occurs in the worker process; the command ends with its own exit code."""
    (tmp_path / "bad.pt").write_bytes(b"no weights")
    command = [Path(sys.executable).with_name("sam2fast"), "serve", "--port", "0", "--data", tmp_path / "data"]
    done = subprocess.run(
        [*command, "--model", "nano", "--checkpoint", tmp_path / "bad.pt", "--device", "cpu"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "bad.pt" in done.stderr and "Traceback" not in done.stderr


def test_missing_packages_are_named(monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gunicorn" else find(name))
    run = CliRunner().invoke(main, ["serve"])
    assert run.exit_code == 1
    assert run.stderr == "sam2fast: the web demo needs gunicorn: pip install 'sam2fast[serve]'\n"
