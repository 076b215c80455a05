import pytest
from parity import NARROW
from video import SMALL, build_video_pair, clip, jpeg_folder


@pytest.fixture(scope="module")
def pair():
    return build_video_pair("sam2.1_t", NARROW, image_size=SMALL)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return jpeg_folder(tmp_path_factory.mktemp("video"), clip(12))
