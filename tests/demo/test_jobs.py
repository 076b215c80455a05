"""Long requests report their progress and can be cancelled."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import moving_shapes
import pytest
from demo_client import DemoClient, Refusal
from PIL import Image

from sam2fast.demo.server import export_data, model_calls, uploads
from sam2fast.demo.server.app import SERVICE
from sam2fast.demo.server.demo_errors import BadInputError, CancelledError
from sam2fast.demo.server.jobs import Jobs

JOB = "0123abcd-89ef"


def test_a_job_has_a_share_while_it_runs():
    jobs = Jobs()
    assert jobs.share(JOB) is None
    with jobs.run(JOB) as report:
        assert jobs.share(JOB) == 0
        report(0.25)
        assert jobs.share(JOB) == 0.25
        with pytest.raises(BadInputError, match="id of its own"), jobs.run(JOB):
            pass
        jobs.cancel(JOB)
        with pytest.raises(CancelledError):
            report(0.5)
    assert jobs.share(JOB) is None
    jobs.cancel(JOB)  # it has ended; the next one with its id is another
    with jobs.run(JOB) as report:
        report(1)
    with jobs.run(None) as report:
        report(0.5)


@pytest.mark.parametrize("job", ["", "short", "x" * 65, "with space", "../../etc"])
def test_ids_of_another_form(job):
    with pytest.raises(BadInputError, match="expected 8 to 64"), Jobs().run(job):
        pass


def at_half(client: DemoClient, reached: threading.Event, go: threading.Event, request: Callable[[], object]):
    """Runs a request that stops in its middle until the job is cancelled; returns its share there, and the answer."""
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(request)
        assert reached.wait(60)
        share = client.http.get(f"/api/jobs/{JOB}").get_json()["share"]
        assert client.http.delete(f"/api/jobs/{JOB}").status_code == 200
        go.set()
        return share, answer.result(60)


@pytest.mark.parametrize("kind", ["cutout", "overlay_mp4", "green_mp4", "transparent_webm"])
def test_an_export(app, client, session, monkeypatch, kind):
    for frame in range(5):
        client.add(session, frame=frame)
    reached, go, read = threading.Event(), threading.Event(), export_data.iterate_frames

    def slow(file):
        for frame, image in read(file):
            if frame == 3:
                reached.set()
                assert go.wait(60)
            yield frame, image

    monkeypatch.setattr(export_data, "iterate_frames", slow)
    other = DemoClient(app.test_client())
    url = f"/api/sessions/{session}/export?format={kind}&job={JOB}"
    share, answer = at_half(client, reached, go, lambda: other.http.get(url))
    assert share == 0.4
    assert answer.status_code == 409 and answer.get_json()["error"]["code"] == "CANCELLED"
    assert client.http.get(f"/api/jobs/{JOB}").get_json() == {"share": None}
    assert os.listdir(app.extensions[SERVICE].library.incoming) == []


def test_an_upload(app, client, tmp_path, monkeypatch):
    content = moving_shapes.write_video(tmp_path / "clip.mp4", moving_shapes.make_frames(12)).read_bytes()
    reached, go, transcode = threading.Event(), threading.Event(), uploads.transcode

    def slow(source, target, cut, report):
        def report_slowly(share):
            report(share)
            if share >= 0.5:
                reached.set()
                assert go.wait(60)

        return transcode(source, target, cut, report_slowly)

    monkeypatch.setattr(uploads, "transcode", slow)
    other = DemoClient(app.test_client())
    share, answer = at_half(client, reached, go, lambda: other.upload(content, job=JOB))
    assert share == pytest.approx(0.5, abs=0.1)
    assert isinstance(answer, Refusal) and answer.code == "CANCELLED"
    assert os.listdir(app.extensions[SERVICE].library.incoming) == []


def test_everything_in_a_photograph(client, app, monkeypatch):
    content = BytesIO()
    Image.fromarray(moving_shapes.make_frames(1)[0]).save(content, "PNG")
    session = client.start(client.upload(content.getvalue())["path"])
    reached, go, generator = threading.Event(), threading.Event(), model_calls.SAM2AutomaticMaskGenerator

    def slow(*args, progress, **options):
        def report_slowly(done, total):
            progress(done, total)
            if done >= total / 2:
                reached.set()
                assert go.wait(60)

        return generator(*args, progress=report_slowly, **options)

    monkeypatch.setattr(model_calls, "SAM2AutomaticMaskGenerator", slow)
    other = DemoClient(app.test_client())
    share, answer = at_half(
        client, reached, go, lambda: other.http.post(f"/api/sessions/{session}/everything?job={JOB}")
    )
    assert share == 0.5
    assert answer.status_code == 409 and answer.get_json()["error"]["code"] == "CANCELLED"
    assert client.add(session)  # the model's thread goes on
    client.close(session)
