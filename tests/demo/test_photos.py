"""Photographs: uploads, sessions of one frame, everything in one, and files of many."""

import json
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tifffile
from demo_client import DemoClient, Refusal, pixels_of, unzipped
from PIL import Image
from pycocotools.coco import COCO

from sam2fast.demo.server import library, photos
from sam2fast.demo.server.app import SERVICE, make_app
from sam2fast.demo.server.photo_routes import FORMATS
from sam2fast.demo.server.settings import ServerSettings
from sam2fast.io.rle import decode_rle, encode_rle
from sam2fast.sam2_image_predictor import SAM2ImagePredictor

HEIGHT, WIDTH = 90, 120
DISC = (30, 40, 20)  # row, column and radius


def drawn(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A bright disc on a dark gradient."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([40 + rows // 2, 40 + columns // 3, 60 + 0 * rows], axis=-1).astype(np.uint8)
    image[disc(height, width)] = (240, 200, 40)
    return image


def disc(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (rows - DISC[0]) ** 2 + (columns - DISC[1]) ** 2 < DISC[2] ** 2


def encoded(form: str = "PNG", image: np.ndarray | Image.Image | None = None, **options) -> bytes:
    file = BytesIO()
    source = drawn() if image is None else image
    (Image.fromarray(source) if isinstance(source, np.ndarray) else source).save(file, form, **options)
    return file.getvalue()


def stored(app, video) -> Path:
    return app.extensions[SERVICE].library.root / video["path"]


@pytest.fixture
def photo(client):
    """A session on a photograph, and its description."""
    uploaded = client.upload(encoded(), "cat.png")
    session = client.start(uploaded["path"])
    yield session, uploaded
    client.close(session)


@pytest.fixture(autouse=True)
def no_temporary_files_remain(app):
    yield
    assert list(app.extensions[SERVICE].library.incoming.iterdir()) == []


@pytest.mark.parametrize(
    ("form", "suffix"), [("JPEG", ".jpg"), ("PNG", ".png"), ("WEBP", ".webp"), ("BMP", ".png"), ("TIFF", ".png")]
)
def test_a_photograph_is_stored_in_its_full_size(client, app, form, suffix):
    content = encoded(form, drawn(90, 2000))
    video = client.upload(content, "cat.xyz")
    assert (video["width"], video["height"]) == (2000, 90) and video["path"].endswith(suffix)
    file = stored(app, video)
    if form in ("JPEG", "PNG", "WEBP"):
        assert file.read_bytes() == content
    else:
        assert np.array_equal(np.asarray(Image.open(file)), drawn(90, 2000))
    poster = Image.open(app.extensions[SERVICE].library.root / video["posterPath"])
    assert max(poster.size) <= photos.POSTER_SIDE
    assert client.http.get("/" + video["path"]).data == file.read_bytes()
    assert client.upload(content, "again") == video


def transparent() -> np.ndarray:
    """The drawing with red under the transparent left half, and a translucent right edge."""
    image = np.dstack([drawn(), np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)])
    image[:, : WIDTH // 2] = (255, 0, 0, 0)
    image[:, -10:, 3] = 128
    return image


def over_grey(image: np.ndarray) -> np.ndarray:
    alpha = image[..., 3:] / 255
    return np.rint(image[..., :3] * alpha + 128 * (1 - alpha)).astype(int)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "animation", "rotated"])
def test_transparent_parts_are_grey_and_stay_transparent_in_cut_outs(client, app, form):
    image = transparent()
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    if form == "animation":
        more = [Image.fromarray(image[::-1])]
        content = encoded("PNG", Image.fromarray(image), save_all=True, append_images=more)
    elif form == "rotated":
        exif = Image.Exif()
        exif[0x0112] = 3
        content = encoded("PNG", np.ascontiguousarray(image[::-1, ::-1]), exif=exif)
    else:
        content = encoded(form, image, **options)
    video = client.upload(content)
    session = client.start(video["path"])
    seen = app.extensions[SERVICE].sessions.use(session).state
    assert np.abs(photos.read_photo(stored(app, video)).astype(int) - over_grey(image)).max() <= 1
    shown = np.asarray(Image.open(BytesIO(client.http.get(f"/api/sessions/{session}/frames/0.jpg").data)))
    assert np.abs(shown[:, : WIDTH // 2 - 8].astype(int) - 128).max() < 4 and seen.video_size == (HEIGHT, WIDTH)
    poster = np.asarray(Image.open(app.extensions[SERVICE].library.root / video["posterPath"]))
    assert np.abs(poster[:, : WIDTH // 2 - 8].astype(int) - 128).max() < 4
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[10:50] = True
    marked = {"objects": [{"id": 1, "name": "One"}], **masks_of((1, mask))}
    body = {"photographs": [{"path": video["path"], "name": "a.png", **marked}]}
    files = [client.http.post("/api/photographs/export?format=cutout", json=body).data]
    for file in (*files, client.export(session, "cutout", marked)):
        cutout = pixels_of(*unzipped(file).values())
        assert np.array_equal(cutout[..., 3], image[..., 3] * mask)
        assert not cutout[cutout[..., 3] == 0].any()  # no erased content
        assert np.array_equal(cutout[cutout[..., 3] > 0], image[(image[..., 3] > 0) & mask])
    client.close(session)


def test_the_model_sees_grey_under_transparent_parts(client, app):
    """Two files that differ in hidden colours alone give the same frame."""
    frames = []
    for colour in ((255, 0, 0, 0), (0, 255, 0, 0)):
        image = transparent()
        image[:, : WIDTH // 2] = colour
        session = client.start(client.upload(encoded("PNG", image))["path"])
        frames.append(np.asarray(app.extensions[SERVICE].sessions.use(session).state.frames[0]))
        client.close(session)
    assert np.array_equal(*frames)


@pytest.mark.skipif(".avif" not in photos.ENDINGS, reason="needs Pillow 11.3 with AVIF")
def test_avif(client, app):
    video = client.upload(encoded("AVIF", quality=95), "cat.avif")
    assert (video["width"], video["height"], Path(video["path"]).suffix) == (WIDTH, HEIGHT, ".jpg")
    assert np.abs(photos.read_photo(stored(app, video)).astype(int) - drawn()).mean() < 4


def test_files_without_a_decoder_are_named(client, monkeypatch):
    monkeypatch.setattr(photos, "_FORMATS", ("JPEG", "PNG"))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for brand, message in ((b"heic", "pip install 'sam2fast[images]'"), (b"avif", "Pillow 11.3")):
        refusal = client.upload(b"\0\0\0\x18ftyp" + brand + bytes(99), "cat.heic")
        assert refusal.code == "BAD_PHOTO" and message in refusal.message


@pytest.mark.parametrize(
    "image", [drawn(), np.full((HEIGHT, WIDTH), 257 * 100, dtype=np.uint16)], ids=["RGB", "16 bit"]
)
def test_thumbnails_of_files_that_browsers_do_not_read(client, image):
    answer = client.http.post("/api/photographs/thumbnail", data=encoded("TIFF", image))
    found = np.asarray(Image.open(BytesIO(answer.data)))
    expected = image if image.ndim == 3 else np.full((HEIGHT, WIDTH, 3), 100)
    assert np.abs(found.astype(int) - expected).mean() < 4
    assert client.http.post("/api/photographs/thumbnail", data=b"no image at all").status_code == 422


def deep_file(kind: str) -> bytes:
    """The drawing with 11 bits, as files that Pillow does not read rightly."""
    file, values = BytesIO(), drawn().astype(np.uint16) * 8
    if kind == "PNG":
        cv2 = pytest.importorskip("cv2")
        return cv2.imencode(".png", values[..., ::-1])[1].tobytes()
    options = {"photometric": "rgb", "metadata": None}
    if kind == "planes":
        tifffile.imwrite(file, np.moveaxis(values, 2, 0), planarconfig="separate", **options)
    elif kind == "bands":
        tifffile.imwrite(file, np.dstack([values, values, values]), extrasamples=["unspecified"] * 6, **options)
    elif kind == "page after a thumbnail":
        with tifffile.TiffWriter(file, bigtiff=True) as pages:
            pages.write(drawn()[::4, ::4], subfiletype=1, **options)
            pages.write(drawn(), **options)
    else:
        tifffile.imwrite(file, values.astype(np.float32), **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["planes", "bands", "float", "page after a thumbnail", "PNG"])
def test_files_that_pillow_does_not_read(client, app, kind):
    """What the user sees, its thumbnail, and what the model sees have the same scale."""
    content = deep_file(kind)
    expected = drawn() if kind == "page after a thumbnail" else drawn() * (255 / 240)
    answer = client.http.post("/api/photographs/thumbnail", data=content)
    assert np.abs(np.asarray(Image.open(BytesIO(answer.data)), float) - expected).mean() < 4
    video = client.upload(content, "cat.tif")
    assert (video["width"], video["height"], Path(video["path"]).suffix) == (WIDTH, HEIGHT, ".png")
    assert np.abs(np.asarray(Image.open(stored(app, video)), float) - expected).max() <= 1
    assert np.abs(photos.read_photo(stored(app, video)).astype(float) - expected).max() <= 1


def test_tiff_files_that_need_too_much_memory(client, tmp_path):
    """The header claims 60,000 bands of the drawing; nothing is decoded."""
    values = np.zeros((HEIGHT, WIDTH, 5), np.float64)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, photometric="minisblack", planarconfig="contig", compression="deflate")
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags["SamplesPerPixel"].overwrite(60_000)
    refusal = client.upload(path.read_bytes(), "cat.tif")
    assert refusal.code == "BAD_PHOTO" and "60000 bands of float64, more than 1 GiB" in refusal.message


def test_tiff_files_without_tifffile_are_named(client, monkeypatch):
    content = deep_file("float")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    refusal = client.upload(content, "cat.tif")
    assert refusal.code == "BAD_PHOTO" and "3 bands of float32" in refusal.message
    assert "pip install 'sam2fast[images]'" in refusal.message


def test_rotated_deep_and_animated_files_are_converted(client, app):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rows are columns
    video = client.upload(encoded("JPEG", exif=exif, quality=95))
    assert (video["width"], video["height"]) == (HEIGHT, WIDTH)
    found = Image.open(stored(app, video))
    assert found.getexif().get(0x0112, 1) == 1
    assert np.abs(np.asarray(found).astype(int) - np.rot90(drawn(), 3)).mean() < 4
    deep = client.upload(encoded("PNG", Image.fromarray(np.full((8, 9), 257 * 100, dtype=np.uint16))))
    assert np.array_equal(np.asarray(Image.open(stored(app, deep))), np.full((8, 9, 3), 100))
    frames = [Image.fromarray(np.full((8, 9, 3), value, dtype=np.uint8)) for value in (10, 200)]
    moving = client.upload(encoded("PNG", frames[0], save_all=True, append_images=frames[1:]))
    assert getattr(Image.open(stored(app, moving)), "n_frames", 1) == 1


def test_what_is_no_photograph_is_refused(client, monkeypatch):
    for content in (encoded()[:200], b"\x89PNG\r\n\x1a\n" + b"nothing" * 9, b"BM" + bytes(60), b"RIFF" + bytes(60)):
        refusal = client.upload(content, "cat.png")
        assert refusal.code == "BAD_PHOTO" and "cannot be used" in refusal.message and "upload-" not in refusal.message
    refusal = client.upload(encoded("GIF"), "cat.gif")
    assert refusal.code == "BAD_VIDEO" and "JPEG" in refusal.message
    monkeypatch.setattr(photos, "MAX_PIXELS", HEIGHT * WIDTH - 1)
    assert "120x90 pixels" in client.upload(encoded(), "cat.png").message


@pytest.fixture
def nano_client(nano_predictor, tmp_path):
    app = make_app(ServerSettings(tmp_path), nano_predictor)
    yield DemoClient(app.test_client())
    app.extensions[SERVICE].close()


def test_a_click_and_everything_find_the_disc(nano_client):
    client = nano_client
    session = client.start(client.upload(encoded("JPEG", quality=95))["path"])
    facts = client.facts(session)
    assert (facts["numFrames"], facts["width"], facts["height"]) == (1, WIDTH, HEIGHT)
    (mask,) = client.add(session, [[DISC[1] / WIDTH, DISC[0] / HEIGHT]]).values()
    assert (mask & disc()).sum() / (mask | disc()).sum() > 0.8
    found = client.http.post(f"/api/sessions/{session}/everything").get_json()["masks"]
    overlaps = [(decode_rle(one) & disc()).sum() / (decode_rle(one) | disc()).sum() for one in found]
    assert max(overlaps) > 0.8 and all(0 < one["iou"] <= 1.5 for one in found)
    areas = [decode_rle(one).sum() for one in found]
    assert areas == sorted(areas, reverse=True)


def test_a_prepared_photograph_is_not_encoded_again(nano_client, nano_predictor, monkeypatch):
    encoded_files = []
    init_state = nano_predictor.init_state
    monkeypatch.setattr(
        nano_predictor, "init_state", lambda *args, **named: encoded_files.append(args) or init_state(*args, **named)
    )
    path = nano_client.upload(encoded("JPEG", quality=95))["path"]
    for _ in range(2):
        assert nano_client.http.post("/api/photographs/prepare", json={"path": path}).status_code == 200
    session = nano_client.start(path)
    assert len(encoded_files) == 1
    (mask,) = nano_client.add(session, [[DISC[1] / WIDTH, DISC[0] / HEIGHT]]).values()
    assert (mask & disc()).sum() / (mask | disc()).sum() > 0.8
    nano_client.start(path)  # a second session is not on the same state
    assert len(encoded_files) == 2


def test_similar_objects_are_found(nano_client, nano_predictor, monkeypatch):
    moved = drawn()[::-1, ::-1]
    here, there = (nano_client.upload(encoded("PNG", image))["path"] for image in (drawn(), moved))
    encodes, encode = [], SAM2ImagePredictor.encode
    monkeypatch.setattr(SAM2ImagePredictor, "encode", lambda *args: encodes.append(1) or encode(*args))
    body = {"path": there, "references": [{"path": here, "mask": encode_rle(disc())}]}
    for total in (2, 3):  # the reference is encoded once
        found = nano_client.http.post("/api/photographs/similar", json=body).get_json()["masks"]
        assert len(encodes) == total
    truth = disc()[::-1, ::-1]
    assert (decode_rle(found[0]) & truth).sum() / (decode_rle(found[0]) | truth).sum() > 0.8
    likeness = [one["likeness"] for one in found]
    assert likeness == sorted(likeness, reverse=True) and likeness[-1] >= 0 and likeness[0] <= 1
    assert nano_client.http.post("/api/photographs/similar?job=12345678", json=body).status_code == 200


def test_wrong_searches_are_refused(client, photo, session):
    path, mask = photo[1]["path"], encode_rle(disc())

    def refused(references, wanted=path) -> str:
        answer = client.http.post("/api/photographs/similar", json={"path": wanted, "references": references})
        assert answer.status_code == 400
        return answer.get_json()["error"]["message"]

    reference = {"path": path, "mask": mask}
    for references in (None, [], [reference] * 9, "x"):
        assert "at most 8 references" in refused(references)
    assert "only photographs" in refused([reference], client.facts(session)["path"])
    assert "a mask has the size" in refused([{"path": path, "mask": encode_rle(disc()[:5])}])
    assert "is empty" in refused([{"path": path, "mask": encode_rle(np.zeros((HEIGHT, WIDTH), bool))}])
    assert client.http.post("/api/photographs/similar", json=[1]).status_code == 400
    missing = {"path": path, "references": ["x"]}
    assert client.http.post("/api/photographs/similar", json=missing).status_code == 404


def test_reading_reports_its_share(tmp_path):
    """A photograph that is kept is decoded; one that is converted is decoded, read and written."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (600, 800, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 3
    for options, last in (({}, 1), ({"exif": exif}, 2 / 3)):
        (tmp_path / "photo.jpg").write_bytes(encoded("JPEG", image, quality=95, **options))
        shares = []
        photos.store_photo(tmp_path / "photo.jpg", tmp_path / "stored", shares.append)
        decoded = 1 / 3 if options else 1
        growing = [share for share in shares if share > 0.05]  # the header is read before
        assert growing == sorted(growing) and len(growing) > 3 and decoded in growing
        assert shares[-1] == pytest.approx(last)


def test_only_photographs_are_prepared(client, session):
    video = client.facts(session)["path"]
    answer = client.http.post("/api/photographs/prepare", json={"path": video})
    assert answer.status_code == 400 and "only photographs" in answer.get_json()["error"]["message"]


def test_everything_is_for_photographs(client, session):
    answer = client.http.post(f"/api/sessions/{session}/everything")
    assert answer.status_code == 400 and "photographs only" in answer.get_json()["error"]["message"]


def masks_of(*marked: tuple[int, np.ndarray]) -> dict:
    """An export's masks of objects."""
    masks = [{"object": number, **encode_rle(mask)} for number, mask in marked]
    return {"frames": [{"frame": 0, "masks": masks}]}


@pytest.fixture
def listed(client):
    """Two photographs with the same name and one without masks, as a page sends them."""
    left = np.zeros((HEIGHT, WIDTH), dtype=bool)
    left[50:80, 10:30] = True
    uploaded = [client.upload(encoded("PNG", drawn() // divisor), "cat.png") for divisor in (1, 2, 3)]
    names = ["album/cat.png", "Cat.bmp", "empty.png"]
    objects = [{"id": 3, "name": "Object 3", "label": "ball"}, {"id": 7, "name": "Object 7", "label": ""}]
    marks = [[(3, disc())], [(3, disc()), (7, left)], []]
    return [
        {"path": video["path"], "name": name, "objects": objects, **masks_of(*mark)}
        for video, name, mark in zip(uploaded, names, marks, strict=True)
    ]


def exported(client, listed, kind, classes=()) -> zipfile.ZipFile:
    body = {"photographs": listed, "classes": [*classes]}
    answer = client.http.post(f"/api/photographs/export?format={kind}", json=body)
    assert answer.status_code == 200, answer.get_json()
    return zipfile.ZipFile(BytesIO(answer.data))


def test_coco_is_read_by_pycocotools(client, listed, tmp_path):
    exported(client, listed, "coco").extractall(tmp_path)
    found = COCO(str(tmp_path / "masks.json"))
    assert [image["file_name"] for image in found.imgs.values()] == ["cat.png", "Cat.bmp"]
    assert [category["name"] for category in found.cats.values()] == ["ball", "object"]
    assert [found.anns[i]["category_id"] for i in (1, 2, 3)] == [1, 1, 2]
    assert np.array_equal(found.annToMask(found.anns[2]).astype(bool), disc())
    listed[1]["name"] = "other/cat.png"
    document = json.loads(exported(client, listed, "coco").read("masks.json"))
    assert [image["file_name"] for image in document["images"]] == ["cat.png", "cat_2.png"]


@pytest.mark.parametrize("kind", ["coco", "yolo", "label-studio"])
def test_the_pages_list_numbers_the_classes(client, listed, kind):
    files = exported(client, listed, kind, ["cube", "ball"])
    if kind == "coco":
        document = json.loads(files.read("masks.json"))
        categories = [(one["id"], one["name"]) for one in document["categories"]]
        assert categories == [(1, "cube"), (2, "ball"), (3, "object")]
        assert [one["category_id"] for one in document["annotations"]] == [2, 2, 3]
    elif kind == "yolo":
        assert files.read("data.yaml").decode().endswith('names:\n  0: "cube"\n  1: "ball"\n  2: "object"\n')
        assert [line.split()[0] for line in files.read("labels/Cat.bmp.txt").splitlines()] == [b"1", b"2"]
    else:
        assert b'value="cube"' in files.read("label-studio/label_config.xml")


@pytest.fixture
def ten(client):
    """Ten photographs with a mask each, and the first one again under another name."""
    files = [client.upload(encoded("PNG", drawn() // 2 + i), "cat.png")["path"] for i in range(10)]
    objects = {"objects": [{"id": 3, "name": "Object 3", "label": "ball"}], **masks_of((3, disc()))}
    return [{"path": path, "name": f"{i}.png", **objects} for i, path in enumerate([*files, files[0]])]


@pytest.mark.parametrize("kind", ["coco", "yolo", "yolo-seg"])
def test_a_split_has_every_photograph_in_one_part(client, ten, kind, tmp_path):
    def parts(options):
        files = exported(client, ten, f"{kind}&{options}", ["cube"])
        if kind == "coco":
            assert sorted(files.namelist()) == ["train/masks.json", "val/masks.json"]
            files.extractall(tmp_path)
            read = [COCO(str(tmp_path / part / "masks.json")) for part in ("train", "val")]
            assert [[*one.cats.values()] for one in read] == 2 * [
                [{"id": 1, "name": "cube"}, {"id": 2, "name": "ball"}]
            ]
            assert all(len(one.anns) == len(one.imgs) for one in read)
            return [{image["file_name"].split(".")[0] for image in one.imgs.values()} for one in read]
        expected = 'train: train/images\nval: val/images\nnames:\n  0: "cube"\n  1: "ball"\n'
        assert files.read("data.yaml").decode() == expected
        names = [
            [
                {Path(name).stem for name in files.namelist() if name.startswith(f"{part}/{folder}/")}
                for part in ("train", "val")
            ]
            for folder in ("images", "labels")
        ]
        assert names[0] == names[1] and len(files.namelist()) == 2 * len(ten) + 1
        return names[0]

    train, val = parts("validation=20&seed=1")
    assert len(val - {"10"}) == 2 and len(train | val) == len(ten) and not train & val
    assert ("0" in val) == ("10" in val)  # the same photograph
    assert parts("validation=20&seed=1") == [train, val]
    assert any(parts(f"validation=20&seed={seed}") != [train, val] for seed in (2, 3, 4))
    ten[:] = ten[:1]
    single = exported(client, ten, f"{kind}&validation=50")
    files = single.namelist()
    assert not any(name.startswith("val/") for name in files) and any(name.startswith("train/") for name in files)
    assert kind == "coco" or b"val: train/images" in single.read("data.yaml")


def test_wrong_splits_are_refused(client, ten):
    for options in ("yolo&validation=100", "yolo&validation=-1", "yolo&validation=2.5", "yolo&validation=20&seed=x"):
        answer = client.http.post(f"/api/photographs/export?format={options}", json={"photographs": ten})
        assert answer.status_code == 400 and "expected a percentage" in answer.get_json()["error"]["message"]
    answer = client.http.post("/api/photographs/export?format=png&validation=20", json={"photographs": ten})
    assert answer.status_code == 400 and "'png' is not split" in answer.get_json()["error"]["message"]


def test_other_formats(client, listed):
    names = {kind: sorted(exported(client, listed, kind).namelist()) for kind in FORMATS}
    labelled = ["data.yaml", "images/Cat.bmp.png", "images/cat.png.png", "labels/Cat.bmp.txt", "labels/cat.png.txt"]
    assert names["yolo"] == names["yolo-seg"] == labelled
    yolo = exported(client, listed, "yolo-seg")
    assert np.array_equal(np.asarray(Image.open(yolo.open("images/cat.png.png"))), drawn())
    assert [line.split()[0] for line in yolo.read("labels/Cat.bmp.txt").splitlines()] == [b"0", b"1"]
    assert names["labelme"] == ["Cat.bmp.json", "Cat.bmp.png", "cat.png.json", "cat.png.png"]
    in_folder = [f"label-studio/{name}" for name in ("Cat.bmp.json", "Cat.bmp.png", "cat.png.json", "cat.png.png")]
    assert names["label-studio"] == [*in_folder, "label-studio/label_config.xml"]
    task = json.loads(exported(client, listed, "label-studio").read("label-studio/cat.png.json"))
    assert task["data"]["image"] == "/data/local-files/?d=label-studio/cat.png.png"
    assert names["geojson"] == ["Cat.bmp.geojson", "cat.png.geojson"]
    labels = np.asarray(Image.open(exported(client, listed, "png").open("Cat.bmp_masks.png")))
    assert set(np.unique(labels)) == {0, 1, 2} and np.array_equal(labels == 1, disc())
    cutout = np.asarray(Image.open(exported(client, listed, "cutout").open("cat.png.png")))
    assert np.array_equal(cutout[..., 3] == 255, disc()) and not cutout[~disc()].any()
    assert np.array_equal(cutout[disc()][:, :3], drawn()[disc()])
    (feature,) = json.loads(exported(client, listed, "geojson").read("cat.png.geojson"))["features"]
    assert feature["properties"]["name"] == "ball"


def test_masks_of_photographs_are_cleaned_and_polygons_simplified(client, listed):
    speckled = disc()
    speckled[28:31, 38:41] = False
    speckled[80:83, 100:103] = True
    listed = [listed[0] | masks_of((3, speckled), (7, speckled))]
    listed[0]["objects"][0] = listed[0]["objects"][0] | {"clean": 10 / speckled.size}
    lengths = []
    for kind in ("geojson", "geojson&tolerance=0"):
        features = json.loads(exported(client, listed, kind).read("cat.geojson"))["features"]
        clean, other = (feature["geometry"]["coordinates"] for feature in features)
        assert [(len(parts), *map(len, parts)) for parts in (clean, other)] == [(1, 1), (2, 2, 1)]
        lengths.append(len(clean[0][0]))
    assert lengths[0] < lengths[1] / 2
    cutout = np.asarray(Image.open(exported(client, [listed[0] | masks_of((3, speckled))], "cutout").open("cat.png")))
    assert np.array_equal(cutout[..., 3] == 255, disc())


def test_wrong_requests_are_refused(client, listed):
    def refused(body, kind="coco") -> str:
        answer = client.http.post(f"/api/photographs/export?format={kind}", json=body)
        assert answer.status_code in (400, 404)
        return answer.get_json()["error"]["message"]

    assert "no format" in refused({"photographs": listed}, "gif")
    assert "expected photographs" in refused({"photographs": ["x"]})
    assert "no masks yet" in refused({"photographs": listed[2:]})
    missing = refused({"photographs": [listed[0] | {"path": "uploads/../x.png"}]})
    assert missing == "the server does not have 'album/cat.png' any more; add this photograph again"
    assert "is not a photograph" in refused({"photographs": [listed[0] | {"path": "gallery/clip.mp4"}]})
    wrong = masks_of((3, disc()[:-1]))
    assert "has the size" in refused({"photographs": [listed[0] | wrong]})


def test_old_photographs_are_deleted_unless_they_are_in_use(client, app, monkeypatch):
    monkeypatch.setattr(library, "MAX_PHOTOS", 2)
    first = client.upload(encoded("PNG", drawn() // 5))
    session = client.start(first["path"])
    others = [client.upload(encoded("PNG", drawn() // divisor)) for divisor in (6, 7, 8)]
    assert [stored(app, video).exists() for video in (first, *others)] == [True, False, True, True]
    client.close(session)
    assert isinstance(client.start(others[0]["path"]), Refusal)


def test_coco_of_one_image_is_imported_into_a_photograph(client, photo, listed):
    session, _ = photo
    document = exported(client, listed[:1], "coco").read("masks.json")
    found = client.http.post(f"/api/sessions/{session}/read_masks", data=document).get_json()["objects"]
    assert [(one["label"], [entry["frame"] for entry in one["masks"]]) for one in found] == [("ball", [0])]
    assert np.array_equal(decode_rle(found[0]["masks"][0]["mask"]), disc())


def test_names_that_no_file_can_have(client, listed):
    for name, found in (("\ud83d.png", "_"), ("\u6f22" * 96 + ".png", "\u6f22" * 65)):
        files = exported(client, [listed[0] | {"name": name}], "cutout").namelist()
        assert files == [f"{found}.png"]


def test_equal_names_are_numbered_across_a_split(client, ten):
    names = []
    files = exported(client, [entry | {"name": "cat.png"} for entry in ten], "coco&validation=40")
    for part in ("train", "val"):
        names += [image["file_name"] for image in json.loads(files.read(f"{part}/masks.json"))["images"]]
    assert sorted(names) == sorted(["cat.png", *(f"cat_{i}.png" for i in range(2, 12))])


def test_object_cutouts_keep_a_photographs_alpha(client):
    pixels = np.dstack([drawn(), np.where(np.arange(WIDTH) < WIDTH // 2, 255, 0) + np.zeros((HEIGHT, 1))])
    session = client.start(client.upload(encoded("PNG", pixels.astype(np.uint8)), "half.png")["path"])
    body = {"objects": [{"id": 3, "name": "Ball"}], **masks_of((3, np.ones((HEIGHT, WIDTH), bool)))}
    cutout = pixels_of(unzipped(client.export(session, "object_cutouts", body))["01_Ball/00000.png"])
    assert np.array_equal(cutout[..., 3], pixels[..., 3]) and not cutout[:, WIDTH // 2 :].any()
    client.close(session)


@pytest.mark.parametrize("body", [[1], "x", 5, None])
def test_a_preparation_needs_an_object(client, body):
    answer = client.http.post("/api/photographs/prepare", json=body)
    assert answer.status_code == 400 and "expected a JSON object" in answer.get_json()["error"]["message"]
