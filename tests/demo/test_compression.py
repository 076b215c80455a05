"""Text is compressed for clients that accept it; nothing else is."""

import gzip
import re

import pytest

ACCEPTS = {"Accept-Encoding": "gzip, deflate"}


def script(client) -> str:
    page = client.http.get("/").get_data(as_text=True)
    return re.search(r'src="(/assets/[^"]+)"', page)[1]


def test_the_page_is_compressed(client):
    path = script(client)
    plain, packed = client.http.get(path), client.http.get(path, headers=ACCEPTS)
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.data) == plain.data
    assert len(packed.data) == int(packed.headers["Content-Length"]) < len(plain.data) / 2
    assert all("Accept-Encoding" in answer.headers.getlist("Vary") for answer in (plain, packed))


@pytest.mark.parametrize("path", ["/gallery/clip.mp4", "/posters/gallery/clip.jpg", "/healthy"])
def test_videos_images_and_short_answers_are_sent_as_they_are(client, path):
    client.graphql("{defaultVideo{path}}")  # draws the poster
    answer = client.http.get(path, headers=ACCEPTS)
    assert answer.status_code == 200 and "Content-Encoding" not in answer.headers


def test_ranges_are_not_compressed(client):
    answer = client.http.get(script(client), headers={**ACCEPTS, "Range": "bytes=0-4999"})
    assert answer.status_code == 206 and "Content-Encoding" not in answer.headers and len(answer.data) == 5000


def test_the_stream_of_masks_is_not_compressed(client, session):
    client.add(session)
    body = {"session_id": session, "start_frame_index": 0}
    answer = client.http.post("/propagate_in_video", json=body, headers=ACCEPTS)
    assert answer.data.startswith(b"--frame") and "Content-Encoding" not in answer.headers
