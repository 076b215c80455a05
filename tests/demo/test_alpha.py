"""Soft outlines of cut-outs and mattes: by distance, and along the logits and the image."""

import io

import av
import moving_shapes
import numpy as np
import pytest
import torch
from demo_client import DemoClient, pixels_of, unzipped
from PIL import Image
from scipy.ndimage import distance_transform_edt

from sam2fast.demo.server.alpha import HARD, Edges, MaskWithLogits, alpha_of
from sam2fast.demo.server.exports import SOFT
from sam2fast.io.rle import encode_rle

HEIGHT, WIDTH = 120, 160
GREY = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)


def disc(radius: float = 30, column: float = 80) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.hypot(rows - 60, columns - column) < radius


@pytest.mark.parametrize("feather", [1, 4.5, 40])
def test_a_feather_rises_by_distance(feather):
    """Compared with exact distances; a mask of noise has thin parts and holes."""
    for mask in (disc(), np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.02):
        distance = np.where(mask, distance_transform_edt(mask) - 0.5, 0.5 - distance_transform_edt(~mask))
        share = np.clip(0.5 + distance / (2 * feather), 0, 1)
        expected = 255 * share**2 * (3 - 2 * share)
        alpha = alpha_of([MaskWithLogits(mask)], Edges("feather", feather), GREY)
        assert np.abs(alpha - expected).max() <= 0.51


def test_a_matte_follows_the_image_beyond_the_mask():
    """Hair that the mask lacks, and background that it has, on the side where colours tell."""
    image = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
    truth = disc()
    truth[58:62, 80:114] = True  # a strand
    image[truth] = (220, 200, 160)
    mask = disc(31)
    alpha = alpha_of([MaskWithLogits(mask)], Edges("matte"), image)
    assert alpha[60, 112] > 150 and not mask[60, 112]
    assert alpha[54, 112] < 40
    assert np.abs(alpha / 255 - truth).mean() < 0.5 * np.abs(mask ^ truth).mean()
    far = ~disc(42) | disc(20)
    far[50:70, 80:] = False
    assert np.array_equal(alpha[far], np.where(mask, 255, 0)[far])


def test_a_matte_follows_the_logits_where_the_image_has_no_edge():
    columns = torch.arange(40).expand(30, 40).float()
    gentle, steep = ((20 - columns - 0.5) / width for width in (2.0, 0.25))
    mask = (torch.nn.functional.interpolate(gentle[None, None], (HEIGHT, WIDTH), mode="bilinear")[0, 0] > 0).numpy()
    found = [
        alpha_of([MaskWithLogits(mask, logits[None])], Edges("matte"), GREY)[60].astype(int)
        for logits in (gentle, steep)
    ]
    for alpha in found:
        outline = np.flatnonzero(np.diff(mask[60].astype(int)))[0]
        assert abs(alpha[outline : outline + 2].mean() - 127.5) < 6
        assert (np.diff(alpha) <= 0).all() and alpha[0] == 255 and alpha[-1] == 0
    soft = [((alpha > 10) & (alpha < 245)).sum() for alpha in found]
    assert soft[0] > soft[1] > 2


def test_uncertain_surroundings_are_transparent():
    mask = disc()
    logits = torch.from_numpy(np.where(mask, 5.0, -0.2)[None].astype(np.float32))
    alpha = alpha_of([MaskWithLogits(mask, logits)], Edges("matte"), GREY)
    assert not alpha[~disc(39)].any() and alpha[60, 80 + 32] > 0


def test_cleaned_specks_do_not_return_in_a_matte():
    """A speck looks like the object, in the band that follows the image."""
    columns = np.mgrid[:HEIGHT, :WIDTH][1]
    speck = disc(4, 118)
    found = disc(30) | speck
    image = np.where(found[..., None], np.uint8(220), np.uint8(30)).repeat(3, -1)
    logits = torch.from_numpy(np.where(found, 4.0, -4.0)[None])
    returned, cleaned = (alpha_of([MaskWithLogits(mask, logits)], Edges("matte"), image) for mask in (found, disc(30)))
    assert returned[speck].max() == 255 and not cleaned[speck].any()
    assert np.array_equal(returned[columns < 108], cleaned[columns < 108])


@pytest.mark.parametrize("edges", [Edges("feather", 4), Edges("matte")])
def test_objects_that_touch_have_no_seam(edges):
    left, right = disc(), disc()
    left[:, 80:] = False
    right[:, :80] = False
    assert (alpha_of([MaskWithLogits(left), MaskWithLogits(right)], edges, GREY)[50:70, 76:84] == 255).all()


@pytest.mark.parametrize("edges", [HARD, Edges("feather", 0), Edges("feather", 3), Edges("matte")])
def test_masks_without_an_outline(edges):
    empty, full = np.zeros((HEIGHT, WIDTH), bool), np.ones((HEIGHT, WIDTH), bool)
    assert not alpha_of([], edges, GREY).any() and not alpha_of([MaskWithLogits(empty)], edges, GREY).any()
    assert (alpha_of([MaskWithLogits(full)], edges, GREY) == 255).all()
    one = empty.copy()
    one[0, 0] = True
    assert np.argmax(alpha_of([MaskWithLogits(one)], edges, GREY)) == 0
    assert alpha_of([MaskWithLogits(full[:1, :1])], edges, GREY[:1, :1]).tolist() == [[255]]


# ---- files ----


@pytest.fixture(scope="module")
def predictor(nano_predictor):
    return nano_predictor


@pytest.fixture(scope="module")
def uploaded(make_server, tmp_path_factory):
    """A client, and a session on frames 10 to 13 of a video of 1600x1200, with two tracked objects."""
    frames = [np.asarray(Image.fromarray(f).resize((1600, 1200), 0)) for f in moving_shapes.make_frames(14)]
    source = moving_shapes.write_video(tmp_path_factory.mktemp("source") / "large.mp4", frames)
    client = DemoClient(make_server(fps=25).test_client())
    session = client.start(client.upload(source.read_bytes(), start=0.4)["path"])
    client.add(session, [(36 / 64, 28 / 48)])
    client.add(session, [(40 / 64, 38 / 48)], obj=2)
    client.track(session)
    return client, session


def images_of(data: bytes) -> dict[str, np.ndarray]:
    return {name: pixels_of(content) for name, content in unzipped(data).items()}


def softness(alpha: np.ndarray) -> float:
    """The share of pixels between 0 and 1."""
    return float(((alpha > 8) & (alpha < 247)).mean())


def test_images_of_each_object_have_the_sources_numbers(uploaded):
    client, session = uploaded
    names = [f"{folder}/{frame:05d}.png" for frame in range(10, 14) for folder in ("01_Object 1", "02_Object 2")]
    mattes = images_of(client.export(session, "object_mattes"))
    assert list(mattes) == names
    assert all(matte.shape == (1200, 1600) and set(np.unique(matte)) <= {0, 255} for matte in mattes.values())
    union = images_of(client.export(session, "cutout"))
    assert np.array_equal(union["00003.png"][..., 3], np.maximum(mattes[names[-2]], mattes[names[-1]]))
    assert all(0 < matte.mean() < union["00003.png"][..., 3].mean() for matte in list(mattes.values())[-2:])
    objects = images_of(client.export(session, "object_cutouts&edges=matte&size=seen"))
    assert list(objects) == names and objects[names[0]].shape == (720, 960, 4)
    assert softness(objects[names[0]][..., 3]) > 0


def test_frames_without_masks_and_names_of_objects(client, session):
    mask = np.zeros((48, 64), bool)
    mask[10:20, 10:30] = True
    objects = [{"id": 7, "name": "../Mug: left"}, {"id": 2, "name": ""}]
    frames = [{"frame": 3, "masks": [{"object": 7, **encode_rle(mask)}]}]
    body = {"objects": objects, "frames": frames}
    mattes = images_of(client.export(session, "object_mattes", body))
    assert sorted({name.partition("/")[0] for name in mattes}) == ["01__Mug_ left", "02_"] and len(mattes) == 10
    assert np.array_equal(mattes["01__Mug_ left/00003.png"], 255 * mask)
    assert sum(matte.any() for matte in mattes.values()) == 1


@pytest.mark.parametrize("edges", ["feather", "matte"])
def test_prores_has_soft_alpha(uploaded, edges, tmp_path):
    client, session = uploaded
    file = tmp_path / "out.mov"
    file.write_bytes(client.export(session, f"prores_mov&edges={edges}&feather=6"))
    alpha = frame_alpha(file)
    hard = images_of(client.export(session, "cutout"))["00000.png"][..., 3]
    assert softness(alpha) > 0.003 and abs((alpha > 127).mean() - (hard > 127).mean()) < 0.01
    expected = images_of(client.export(session, f"cutout&edges={edges}&feather=6"))["00000.png"][..., 3]
    assert np.abs(alpha.astype(int) - expected).mean() < 1


def frame_alpha(file) -> np.ndarray:
    """The alpha of the first frame of a video in ProRes 4444."""
    with av.open(str(file)) as container:
        assert container.streams.video[0].codec_context.pix_fmt.startswith("yuva444p")
        return next(container.decode(video=0)).to_ndarray(format="rgba")[..., 3]


def test_formats_with_alpha_have_soft_edges(uploaded):
    client, session = uploaded
    green = {}
    for edges in ("hard", "feather"):
        file = io.BytesIO(client.export(session, f"matte_mp4&edges={edges}&feather=12&size=seen"))
        green[edges] = first_frame(file)[..., 0]
    assert softness(green["feather"]) > 2 * softness(green["hard"])
    for kind in SOFT:
        assert client.export(session, f"{kind}&edges=feather&feather=2.5&size=seen")


def first_frame(file) -> np.ndarray:
    with av.open(file) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


def test_a_feather_is_in_pixels_of_the_source(uploaded):
    client, session = uploaded
    wide = {}
    for size in ("source", "seen"):
        alpha = images_of(client.export(session, f"cutout&edges=feather&feather=10&size={size}"))["00000.png"]
        wide[size] = softness(alpha[..., 3])
    assert wide["source"] == pytest.approx(wide["seen"], rel=0.1)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("cutout&edges=fuzzy", "no edges 'fuzzy'; expected one of hard, feather, matte"),
        ("cutout&edges=feather&feather=nan", "expected 0 to 40 pixels"),
        ("cutout&edges=feather&feather=41", "expected 0 to 40 pixels"),
        ("coco&edges=matte", "coco has no soft edges; expected one of green_mp4"),
    ],
)
def test_wrong_edges_are_refused(uploaded, query, said):
    client, session = uploaded
    answer = client.http.get(f"/api/sessions/{session}/export?format={query}")
    assert answer.status_code == 400 and said in answer.get_json()["error"]["message"]


# ---- photographs ----


@pytest.fixture
def photo(client):
    """A client's photograph with the mask of a click, as a page sends it, and its session."""
    image = np.full((300, 400, 3), 40, np.uint8)
    rows, columns = np.mgrid[:300, :400]
    image[np.hypot(rows - 140, columns - 150) < 60] = (240, 200, 40)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    path = client.upload(file.getvalue(), "ball.png")["path"]
    session = client.start(path)
    mask = client.add(session, [(150 / 400, 140 / 300)])[1]
    entry = {"path": path, "name": "ball.png", "objects": [{"id": 1, "name": "Ball"}]}
    yield entry | {"frames": [{"frame": 0, "masks": [{"object": 1, **encode_rle(mask)}]}]}, mask, session
    client.close(session)


def cutout(client, entry, more="") -> np.ndarray:
    answer = client.http.post(f"/api/photographs/export?format=cutout{more}", json={"photographs": [entry]})
    assert answer.status_code == 200, answer.data
    return images_of(answer.data)["ball.png"]


def test_cutouts_of_photographs_are_soft_and_cropped(client, photo):
    entry, mask, _ = photo
    whole = cutout(client, entry)
    assert np.array_equal(whole[..., 3], np.where(mask, 255, 0))
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    crop = cutout(client, entry, "&crop=true")
    top, left = max(0, rows[0] - 8), max(0, columns[0] - 8)
    assert np.array_equal(crop, whole[top : rows[-1] + 9, left : columns[-1] + 9])
    soft = cutout(client, entry, "&crop=true&edges=feather&feather=5")
    assert softness(soft[..., 3]) > 0.01 and soft.shape[0] > crop.shape[0]
    assert not soft[soft[..., 3] == 0].any()


def test_a_matte_of_a_photograph_uses_the_logits_of_its_session(client, photo):
    """As long as the session is open: afterwards its mask alone."""
    entry, _, session = photo
    with_logits = cutout(client, entry, "&edges=matte")
    client.close(session)
    without = cutout(client, entry, "&edges=matte")
    assert softness(with_logits[..., 3]) > 0 and softness(without[..., 3]) > 0
    assert not np.array_equal(with_logits, without)


def test_other_formats_of_photographs_have_no_crop(client, photo):
    for more in ("&crop=true", "&edges=matte"):
        answer = client.http.post(f"/api/photographs/export?format=coco{more}", json={"photographs": [photo[0]]})
        assert answer.status_code == 400 and "neither soft edges nor a crop" in answer.get_json()["error"]["message"]
