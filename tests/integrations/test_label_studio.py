"""Label Studio's HTTP protocol, answered with the library's masks; tests/clients reads the answers with its SDK."""

import base64
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import ExifTags, Image
from small_video import SIZE, video_frames

from sam2fast import SAM2ImagePredictor, SAM2VideoPredictor
from sam2fast.cli import main
from sam2fast.demo.clip import FRAMES_PER_SECOND, encode_mp4
from sam2fast.integrations.label_studio import LabelStudioBackend, make_app, reader_of
from sam2fast.integrations.models import load_predictors
from sam2fast.io.allowed_files import HostFiles
from sam2fast.io.rle import decode_rle
from sam2fast.results.label_studio import box_around, brush_run_lengths, outline, vector_around
from sam2fast.utils.embedded import EMBEDDED, MINI, NANO

IMAGES = """<View><Image name="image" value="$image"/>
  <KeyPointLabels name="point" toName="image" smart="true"><Label value="disc"/></KeyPointLabels>
  <RectangleLabels name="box" toName="image" smart="true"><Label value="disc"/></RectangleLabels>
  <{0} name="mask" toName="image"><Label value="disc"/><Label value="other"/></{0}></View>"""
VIDEOS = """<View><Video name="video" value="$video"/>
  <Labels name="labels" toName="video"><Label value="disc"/></Labels>
  <VideoRectangle name="box" toName="video" smart="true"/>
  <VideoVectorLabels name="outline" toName="video"><Label value="disc"/></VideoVectorLabels></View>"""
BRUSH = IMAGES.format("BrushLabels")
CLIP, DISC = {"video": "/data/upload/clip.mp4"}, [8, 18, 52, 62]
COUNT = 6
FRAMES = video_frames(COUNT)
PERCENT = 100 / SIZE


def keypoint(x, y, positive=1, label="disc"):
    value = {"x": x * PERCENT, "y": y * PERCENT, "width": 0.5, "keypointlabels": [label]}
    return {"type": "keypointlabels", "to_name": "image", "is_positive": positive, "value": value}


def rectangle(x0, y0, x1, y1, **more):
    value = {"x": x0 * PERCENT, "y": y0 * PERCENT, "width": (x1 - x0) * PERCENT, "height": (y1 - y0) * PERCENT}
    return {"type": "rectanglelabels", "to_name": "image", "value": value | {"rectanglelabels": ["disc"]} | more}


def video_box(name, keys, label="disc", count=COUNT):
    """A region with boxes XYXY by frame, from 1; ``count`` of Label Studio's frames last as long as the video."""
    duration = COUNT / FRAMES_PER_SECOND
    sequence = [
        {"frame": t, "enabled": True, "rotation": 0, "time": (t - 1) * duration / count}
        | {k: v for k, v in rectangle(*box)["value"].items() if k != "rectanglelabels"}
        for t, box in keys.items()
    ]
    value = {"framesCount": count, "duration": duration, "sequence": sequence, "labels": [label]}
    return {"type": "videorectangle", "id": name, "from_name": "box", "to_name": "video", "value": value}


def data_uri(array) -> str:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


PHOTO = {"image": data_uri(FRAMES[0])}


@pytest.fixture(scope="module")
def video() -> bytes:
    return encode_mp4([Image.fromarray(frame) for frame in FRAMES])


@pytest.fixture(scope="module")
def predictor():
    return SAM2VideoPredictor.from_pretrained("sam2fast/nano", device="cpu")


@pytest.fixture(scope="module")
def label_studio(video):
    """A Label Studio that has two files, for those who bring the token, and redirects elsewhere."""

    class Handler(BaseHTTPRequestHandler):
        seen: list[str | None] = []

        def do_GET(self):
            self.seen.append(self.headers.get("Authorization"))
            if self.path == "/elsewhere":
                self.send_response(302)
                self.send_header("Location", "http://127.0.0.1:9/secret")
                self.end_headers()
                return
            files = {"/data/upload/clip.mp4": video, "/big": bytes(3 << 20), "/d?d=a%20%C3%BC%2Fb.png": b"quoted"}
            content = files.get(self.path)
            self.send_response(404 if content is None else 200)
            self.end_headers()
            self.wfile.write(content or b"")

        def do_POST(self):
            token = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["refresh"]
            self.send_response(200 if self.path == "/api/token/refresh" else 404)
            self.end_headers()
            self.wfile.write(json.dumps({"access": f"short-{token}"}).encode())

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.address = f"http://127.0.0.1:{server.server_port}"
    server.seen = Handler.seen
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def client(predictor, label_studio):
    return make_app(LabelStudioBackend(predictor, reader_of(label_studio.address, "secret"))).test_client()


def ask(client, config, data, prompts, code=200):
    body = {"tasks": [{"id": 1, "data": data}], "label_config": config, "project": "1.1"}
    answer = client.post("/predict", json=body | {"params": {"context": {"result": prompts}}})
    assert answer.status_code == code, answer.json
    return answer.json["results"][0] if code == 200 else answer.json["error"]


def test_health_setup_and_training(client):
    assert client.get("/health").json["status"] == "UP"
    assert client.post("/setup", json={"project": "1.1", "schema": "<View/>"}).json == {"model_version": "sam2fast"}
    assert client.post("/webhook", json={"action": "ANNOTATION_CREATED"}).status_code == 201


@pytest.mark.parametrize("tag", ["BrushLabels", "PolygonLabels"])
def test_an_image(client, predictor, tag):
    images = SAM2ImagePredictor(predictor)
    images.set_image(FRAMES[0])
    for prompts, given in [
        ([keypoint(30, 40)], ([[30, 40]], [1], None, None, True)),
        (
            [keypoint(30, 40), keypoint(100, 90, 0), rectangle(8, 18, 52, 62)],
            ([[30, 40], [100, 90]], [1, 0], DISC, None, False),
        ),
    ]:
        masks, scores, _ = images.predict(*given)
        mask, score = masks[scores.argmax()] > 0, scores.max()
        found = ask(client, IMAGES.format(tag), PHOTO, prompts)
        (region,) = found["result"]
        assert found["score"] == region["score"] == pytest.approx(score) and mask.sum() > 500
        assert (region["from_name"], region["to_name"], region["type"]) == ("mask", "image", tag.lower())
        assert (region["original_height"], region["original_width"]) == mask.shape
        value = region["value"]
        assert value[tag.lower()] == ["disc"]
        if tag == "BrushLabels":
            assert value["rle"] == brush_run_lengths(mask)
        else:
            assert value["points"] == outline(mask) and value["closed"]


def test_an_image_is_encoded_once(predictor, monkeypatch):
    backend = LabelStudioBackend(predictor, reader_of("http://localhost:1"), images_kept=2)
    client, images = make_app(backend).test_client(), [{"image": data_uri(frame)} for frame in FRAMES[:3]]
    for image in (0, 0, 1, 0):
        ask(client, BRUSH, images[image], [keypoint(30, 40)])
    assert backend._encoded.cache_info()[:2] == (2, 2)
    ask(client, BRUSH, images[2], [keypoint(30, 40)])
    assert backend._encoded.cache_info().currsize == 2


def test_threads(client):
    def ask_alone(i):
        return ask(client, BRUSH, {"image": data_uri(FRAMES[i % 3])}, [keypoint(30 + i, 40)])

    expected = [ask_alone(i) for i in range(6)]
    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(expected, pool.map(ask_alone, range(6)), strict=True):
            assert one["result"][0]["value"] == other["result"][0]["value"]


def test_a_region_that_ends_stays(client):
    ended = video_box("a", {1: DISC, 2: DISC})
    ended["value"]["sequence"][1]["enabled"] = False
    assert ask(client, VIDEOS, CLIP, [ended])["result"] == [ended]


@pytest.mark.parametrize(("count", "indices"), [(12, [1, 2, 2, 3, 3, 4, 4, 5, 5]), (3, [2, 4])])
def test_a_timeline_of_another_rate(client, predictor, video, count, indices):
    """Label Studio's frames are those of its tag, 24 a second by default; the masks are those of the same time."""
    first = count - len(indices) + 1
    state = predictor.init_state(video)
    predictor.add_new_points_or_box(state, indices[0], "a", box=DISC)
    masks = {t: logits[0, 0] > 0 for t, _, logits in predictor.propagate_in_video(state, indices[0], progress=False)}
    prompts = [video_box("a", {first: DISC}, count=count)]
    keys = ask(client, VIDEOS, CLIP, prompts)["result"][0]["value"]["sequence"]
    assert [key["frame"] for key in keys] == [*range(first, count + 1)]
    for key, index in list(zip(keys, indices, strict=True))[1:]:
        assert key == {"frame": key["frame"], "time": (key["frame"] - 1) * 6 / 8 / count, "enabled": True} | (
            box_around(masks[index].numpy())
        )


def test_each_box_is_tracked_for_as_many_frames(predictor, video, label_studio):
    backend = LabelStudioBackend(predictor, reader_of(label_studio.address), max_frames=1)
    prompts = [video_box("a", {1: DISC}), video_box("b", {4: [88, 78, 117, 107]})]
    result = ask(make_app(backend).test_client(), VIDEOS, CLIP, prompts)["result"]
    found = {one["id"]: [key["frame"] for key in one["value"]["sequence"]] for one in result}
    assert found == {"a": [1, 2], "a-outline": [2], "b": [4, 5], "b-outline": [5]}


def test_masks_are_of_the_prompted_image_and_have_its_label(client):
    two = """<View><Image name="A" value="$a"/><Image name="B" value="$b"/>
      <BrushLabels name="of A" toName="A"><Label value="disc"/></BrushLabels>
      <PolygonLabels name="other" toName="B"><Label value="square"/></PolygonLabels>
      <BrushLabels name="of B" toName="B"><Label value="a disc" alias="disc"/></BrushLabels></View>"""
    data = {"a": data_uri(FRAMES[0][:64]), "b": data_uri(FRAMES[0])}
    (region,) = ask(client, two, data, [keypoint(30, 40) | {"to_name": "B"}])["result"]
    assert (region["from_name"], region["to_name"], region["original_height"]) == ("of B", "B", len(FRAMES[0]))


def run(*arguments):
    result = CliRunner().invoke(main, [*map(str, arguments), "--device", "cpu"])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("model", [NANO, MINI])
def test_an_image_is_that_of_the_command(tmp_path, model, monkeypatch):
    """Mask, score and class, of a photograph that its EXIF rotates. Mini has another input size for images."""
    monkeypatch.setitem(EMBEDDED, MINI.model_id, MINI._replace(photograph_size=256))  # quicker than 768
    label, photo = "größe 'x' 猫 \N{CAT}", tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(np.rot90(FRAMES[0])[:, :-28].copy()).save(photo, exif=exif, quality=95)
    run("segment", photo, "--point", "30,40", "--model", model.model_id.rpartition("/")[2], "--out", tmp_path)
    expected = json.loads((tmp_path / "photo.json").read_text())
    width, height = expected["size"]["width"], expected["size"]["height"]
    predictors = load_predictors(model.config, model.weights, "cpu", "float32")
    backend = LabelStudioBackend(predictors[0], lambda address: photo.read_bytes(), images=predictors[1])
    value = {"x": 3000 / width, "y": 4000 / height, "keypointlabels": [label]}
    prompt = {"type": "keypointlabels", "to_name": "image", "value": value, "image_rotation": 0}
    interface = BRUSH.replace('"disc"', quoteattr(label))
    found = ask(make_app(backend).test_client(), interface, {"image": "x"}, [prompt])
    (region,) = found["result"]
    mask = decode_rle(expected["rle"])
    assert (region["original_height"], region["original_width"]) == mask.shape == (height, width) == (100, 128)
    assert region["value"]["rle"] == brush_run_lengths(mask) and region["value"]["brushlabels"] == [label]
    assert region["score"] == found["score"] == pytest.approx(expected["score"], abs=1e-6)


def test_a_video_is_that_of_the_command(client, video, label_studio, tmp_path):
    """Compares boxes, outlines, frame numbers, times and scores of two objects."""
    (tmp_path / "clip.mp4").write_bytes(video)
    boxes = {"a": (2, DISC), "b": (3, [88, 78, 117, 107])}
    clicks = [f"--box={frame - 1},{name},{','.join(map(str, box))}" for name, (frame, box) in boxes.items()]
    run("track", tmp_path / "clip.mp4", *clicks, "--model", "nano", "--out", tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "masks.jsonl").read_text().splitlines()]
    tracked = {(one["id"], line["frame"] + 1): one for line in lines for one in line["objects"]}
    prompts = [video_box(name, {t: box}) for name, (t, box) in boxes.items()]
    found = ask(client, VIDEOS, CLIP, prompts)
    assert label_studio.seen[-1] == "Token secret"
    assert found["score"] == min(region["score"] for region in found["result"])
    assert [one["id"] for one in found["result"]] == ["a", "a-outline", "b", "b-outline"]
    pairs = zip(found["result"][::2], found["result"][1::2], strict=True)
    for prompt, (of_box, of_outline), (name, (first, _)) in zip(prompts, pairs, boxes.items(), strict=True):
        after = range(first + 1, COUNT + 1)
        keys, vectors = of_box["value"]["sequence"], of_outline["value"]["sequence"]
        assert keys[0] == prompt["value"]["sequence"][0]
        assert [vector["frame"] for vector in vectors] == [*after]
        for frame, key, vector in zip(after, keys[1:], vectors, strict=True):
            mask = decode_rle(tracked[name, frame]["rle"])
            time = pytest.approx((frame - 1) / FRAMES_PER_SECOND)
            assert key == {"frame": frame, "time": time, "enabled": True} | box_around(mask)
            assert vector["vertices"] == vector_around(mask)["vertices"] and vector["closed"]
        score = np.mean([tracked[name, frame]["score"] for frame in after])
        assert of_box["score"] == of_outline["score"] == pytest.approx(score, abs=1e-5) and 0 < score < 1
        assert of_box["value"]["labels"] == of_outline["value"]["labels"] == ["disc"]


def test_a_personal_token_is_exchanged(label_studio):
    assert reader_of(label_studio.address, "a.b.c")("/data/upload/clip.mp4")
    assert label_studio.seen[-1] == "Bearer short-a.b.c"


@pytest.mark.parametrize(
    ("config", "data", "prompts", "message"),
    [
        (BRUSH, {}, [keypoint(30, 40)], "lacks 'image'"),
        ("<View", {"image": "x"}, [keypoint(30, 40)], "not XML"),
        (IMAGES.format("Choices"), {"image": "x"}, [keypoint(30, 40)], "no BrushLabels or PolygonLabels"),
        (BRUSH, PHOTO, [keypoint(30, 40, label="cat")], "no label 'cat'"),
        (BRUSH, PHOTO, [{"type": "ellipselabels", "to_name": "image", "value": {}}], "ellipse"),
        (BRUSH, PHOTO, [rectangle(1, 2, 3, 4, rotation=5)], "rotated"),
        (BRUSH, PHOTO, [keypoint(30, 40) | {"image_rotation": 90}], "rotated by 90 degrees"),
        (BRUSH, {"image": "x"}, [keypoint(30, 40) | {"value": {"x": 1, "y": 1}}], "a prompt has no label"),
        (VIDEOS, CLIP, [video_box("a", {1: DISC}, label="cat")], "no label 'cat'"),
        (BRUSH, {"image": "data:image/png;base64,AAAA"}, [keypoint(30, 40)], "image"),
        (BRUSH, {"image": "data:image/png;base64,A"}, [keypoint(30, 40)], "damaged"),
        (BRUSH, {"image": "/missing.png"}, [keypoint(30, 40)], "404"),
        (BRUSH, {"image": "/elsewhere"}, [keypoint(30, 40)], "302"),
        (BRUSH, {"image": "http://169.254.169.254/meta"}, [keypoint(30, 40)], "is refused"),
        (BRUSH, {"image": "file:///etc/passwd"}, [keypoint(30, 40)], "is refused"),
        (BRUSH, {"image": 7}, [keypoint(30, 40)], "expected the address"),
        (VIDEOS, CLIP, [video_box("a", {7: DISC})], "frame"),
        (VIDEOS, {"video": data_uri(FRAMES[0])}, [video_box("a", {3: DISC})], ""),
        (BRUSH, {"video": "x"}, [video_box("a", {3: DISC})], "no VideoRectangle"),
    ],
)
def test_what_cannot_be_used(client, config, data, prompts, message):
    assert message in ask(client, config, data, prompts, code=400)
    empty = ask(client, BRUSH, {"image": "x"}, [])
    assert empty == {"result": [], "score": 0.0, "model_version": "sam2fast"}


def test_other_bodies(client):
    for body in ({}, [], {"tasks": [{}]}, {"tasks": [{"data": {}}], "label_config": None}):
        assert client.post("/predict", json=body).status_code == 400, body
    answer = client.post("/predict", data="x")
    assert answer.status_code == 415 and "application/json" in answer.json["error"]


def test_files_of_a_host(label_studio):
    files = HostFiles(label_studio.address, max_megabytes=2)
    assert files.read("/d?d=a ü%2Fb.png", {}) == files.read("/d?d=a%20%C3%BC%2Fb.png", {}) == b"quoted"
    with pytest.raises(ValueError, match="more than 2 MB"):
        files.read("/big", {})
    with pytest.raises(ValueError, match="more than 2 MB"):
        files.read("data:image/png;base64," + "A" * (3 << 20), {})
    for address in (
        "//other.example/x",
        f"{label_studio.address}0/x",
        "https" + label_studio.address[4:],
        "http://[",
        "s3://a/b",
    ):
        with pytest.raises(ValueError, match="is refused"):
            files.read(address, {"Authorization": "secret"})
    for host in ("localhost:8080", "ftp://a.example", ""):
        with pytest.raises(ValueError, match="is not the address of a server"):
            HostFiles(host)
