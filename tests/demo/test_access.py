"""Allowed origins and hosts, the files that can be reached, and the headers and pages of answers."""

import shutil

import pytest
from demo_client import DemoClient

from sam2fast.demo.server import photos, rest
from sam2fast.demo.server.app import SERVICE
from sam2fast.demo.server.library import MAX_PATH_LENGTH

FRIEND, STRANGER = "https://demo.example:8443", "https://evil.example"
OUTSIDE = [
    "",
    "..",
    "/etc/passwd",
    "../secret.mp4",
    "gallery/../../secret.mp4",
    "/gallery/clip.mp4",
    "gallery\\clip.mp4",
    "gallery/..\\..\\secret.mp4",
    "posters/clip.mp4",
    "secret.mp4",
    "gallery/clip.mp4\0.mp4",
    "gallery/.hidden.mp4",
    "gallery/link.mp4",
    "gallery/folder/clip.mp4",
    ".incoming/clip.mp4",
    "gallery/%2e%2e/%2e%2e/secret.mp4",
    "gallery/" + "a" * MAX_PATH_LENGTH + ".mp4",
    "gallery/" + "字" * 100 + ".mp4",
    "gallery/" + "a/" * 5000 + ".mp4",
    "gallery/\u202eclip.mp4",
]


@pytest.fixture(scope="module")
def guarded(make_server):
    """A server with files around its gallery that must not be reachable."""
    app = make_server()
    root = app.extensions[SERVICE].library.root
    content = (root / "gallery/clip.mp4").read_bytes()
    for name in ("secret.mp4", "posters/clip.mp4", "gallery/.hidden.mp4", ".incoming/clip.mp4"):
        (root / name).write_bytes(content)
    (root / "gallery/link.mp4").symlink_to(root / "secret.mp4")
    (root / "gallery/same.mp4").symlink_to(root / "gallery/clip.mp4")
    elsewhere = root.with_name(root.name + "-elsewhere")
    elsewhere.mkdir()
    (elsewhere / "clip.mp4").write_bytes(content)
    (root / "gallery/folder").symlink_to(elsewhere)
    return app


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: path[:30].encode("ascii", "replace").decode())
def test_no_path_leads_out_of_the_library(guarded, path):
    client = DemoClient(guarded.test_client())
    refused = client.start(path)
    assert refused.code == "NOT_FOUND" and "there is no" in refused.message and len(refused.message) < 200
    assert len(guarded.extensions[SERVICE].sessions) == 0


def test_the_gallery_has_links_within_it_but_not_to_other_folders(guarded):
    client, root = DemoClient(guarded.test_client()), guarded.extensions[SERVICE].library.root
    paths = [edge["node"]["path"] for edge in client.graphql("{videos{edges{node{path}}}}")["videos"]["edges"]]
    assert paths == ["gallery/clip.mp4", "gallery/same.mp4"]
    assert not (root / "posters/gallery/link.jpg").exists()
    assert client.close(client.start("gallery/same.mp4"))


@pytest.mark.parametrize(
    "path",
    [
        "/gallery/%2e%2e/secret.mp4",
        "/gallery/%2e%2e%2fsecret.mp4",
        "/gallery/link.mp4",
        "/gallery/folder/clip.mp4",
        "/gallery/.hidden.mp4",
        "/posters/../.incoming/clip.mp4",
        "/uploads/%2fetc%2fpasswd",
        "/gallery/clip.mp4%00",
        "/.incoming/clip.mp4",
        "/%2e%2e/app.py",
        "/assets/..%2f..%2fapp.py",
    ],
)
def test_no_url_leads_out_of_the_folders(guarded, path):
    answer = guarded.test_client().get(path)
    assert answer.status_code == 404
    assert answer.get_json()["error"]["code"] == "NOT_FOUND"


def test_pages_of_other_sites_are_refused(client):
    for origin in (STRANGER, "null", "http://localhost:1", "http://localhost.evil.example", "x", "http://["):
        answer = client.http.post("/graphql", json={"query": "{__typename}"}, headers={"Origin": origin})
        assert answer.status_code == 403 and answer.get_json()["error"]["code"] == "FOREIGN_ORIGIN"
        assert "Access-Control-Allow-Origin" not in answer.headers
    assert client.http.post("/propagate_in_video", data="{}", headers={"Origin": STRANGER}).status_code == 403
    own = client.http.post("/graphql", json={"query": "{__typename}"}, headers={"Origin": "http://localhost"})
    assert own.get_json() == {"data": {"__typename": "Query"}}
    assert "Access-Control-Allow-Origin" not in own.headers


def test_allowed_origins(make_server):
    http = make_server(allow_origins=(FRIEND,)).test_client()
    preflight_headers = {"Origin": FRIEND, "Access-Control-Request-Method": "POST"}
    preflight = http.options("/graphql", headers=preflight_headers)
    assert preflight.status_code == 204
    expected = {"Access-Control-Allow-Origin": FRIEND, "Access-Control-Allow-Credentials": "true"}
    for headers in (preflight.headers, http.get("/healthy", headers={"Origin": FRIEND}).headers):
        assert {name: headers[name] for name in expected} == expected and "Origin" in headers["Vary"]
    assert preflight.headers["Access-Control-Allow-Methods"] == "GET, POST, DELETE"
    assert preflight.headers["Access-Control-Allow-Headers"] == "Authorization, Content-Type"
    refused = http.options("/graphql", headers={**preflight_headers, "Origin": STRANGER})
    assert refused.status_code == 403 and "Access-Control-Allow-Origin" not in refused.headers


def test_hosts(make_server):
    http = make_server(trusted_hosts=("127.0.0.1", "localhost", "::1")).test_client()
    for host in ("127.0.0.1:7263", "localhost:7263", "localhost", "[::1]:7263"):
        assert http.get("/healthy", headers={"Host": host}).status_code == 200
    for host in ("evil.example", "localhost.evil.example:7263", "127.0.0.1.evil.example", "[::2]:7263"):
        answer = http.get("/healthy", headers={"Host": host})
        assert answer.status_code == 403 and answer.get_json()["error"]["code"] == "UNKNOWN_HOST"
    for host in ("a b/../", "["):
        assert http.get("/healthy", headers={"Host": host}).status_code in (400, 403)


def test_a_token(make_server):
    app = make_server(token="abc123", allow_origins=(FRIEND,))
    http = app.test_client()
    query = {"query": "{defaultVideo{path}}"}
    for answer in (
        http.get("/"),
        http.get("/gallery/clip.mp4"),
        http.get("/api/limits?token=abc12"),
        http.get("/api/limits?token="),
        http.post("/graphql?token=abc123", json=query),
        http.get("/api/limits", headers={"Authorization": "Bearer abc"}),
        http.get("/api/limits", headers={"Authorization": "Basic YWJjMTIzOg=="}),
        http.get("/api/limits", headers={"Cookie": "token=abc123"}),
    ):
        assert answer.status_code == 401 and answer.get_json()["error"]["code"] == "NO_TOKEN"
    assert http.get("/healthy").status_code == http.get("/ready").status_code == 200
    bearer = {"Authorization": "Bearer abc123"}
    assert http.post("/graphql", json=query, headers=bearer).get_json()["data"]["defaultVideo"]["path"]
    preflight = {"Origin": FRIEND, "Access-Control-Request-Method": "POST"}
    assert http.options("/graphql", headers=preflight).status_code == 204  # browsers send these without credentials

    link = http.get("/gallery/clip.mp4?a=1&token=abc123&a=%26")
    assert link.status_code == 302 and link.headers["Location"] == "/gallery/clip.mp4?a=1&a=%26"
    assert "HttpOnly" in link.headers["Set-Cookie"] and "SameSite=Lax" in link.headers["Set-Cookie"]
    assert http.get("/gallery/clip.mp4").status_code == 200
    assert http.post("/graphql", json=query).status_code == 200
    other = make_server(token="abc124").test_client()
    other.set_cookie(link.headers["Set-Cookie"].partition("=")[0], "abc123")
    assert other.get("/api/limits").status_code == 401


@pytest.mark.parametrize("path", ["/", "/healthy", "/gallery/clip.mp4", "/api/limits", "/api/nothing", "/graphql"])
def test_headers(client, path):
    headers = client.http.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["X-Frame-Options"] == "DENY"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


def test_graphiql_is_optional(client, make_server):
    page = {"Accept": "text/html"}
    assert client.http.get("/graphql", headers=page).status_code == 404
    http = make_server(graphiql=True).test_client()
    answer = http.get("/graphql", headers=page)
    assert answer.status_code == 200 and b"GraphiQL" in answer.data
    assert "Content-Security-Policy" not in answer.headers  # GraphiQL would be blocked
    assert "Content-Security-Policy" in http.get("/healthy").headers


def test_server_status(client, app):
    assert client.http.get("/healthy").data == b"OK"
    limits = client.http.get("/api/limits").get_json()
    assert limits == {
        "maxUploadMB": 70, "maxSeconds": 60.0, "formats": [".mp4", ".m4v", ".mov", ".webm", ".mkv"],
        "photoFormats": list(photos.ENDINGS), "maxPhotoPixels": 1 << 26,
        "maxSessions": 16, "sessionMinutes": 15.0, "maxObjects": 32, "model": "nano", "imageSize": 128,
    }  # fmt: skip
    ready = client.http.get("/ready").get_json()
    assert ready == {"ready": True, "model": "nano", "device": "cpu", "sessions": 0, "limits": limits}


def test_videos(client, make_server):
    fields = "{id path posterPath url posterUrl width height}"
    video = client.graphql(f"{{defaultVideo{fields}}}")["defaultVideo"]
    assert video == {
        "id": "VmlkZW86Z2FsbGVyeS9jbGlwLm1wNA==",  # Video:gallery/clip.mp4
        "path": "gallery/clip.mp4",
        "posterPath": "posters/gallery/clip.jpg",
        "url": "http://localhost/gallery/clip.mp4",
        "posterUrl": "http://localhost/posters/gallery/clip.jpg",
        "width": 64,
        "height": 48,
    }
    assert client.http.get(video["posterUrl"]).data[:2] == b"\xff\xd8"
    page = client.graphql(f"{{videos(first:1){{edges{{cursor node{fields}}} pageInfo{{hasNextPage}}}}}}")["videos"]
    assert [edge["node"] for edge in page["edges"]] == [video] and page["pageInfo"] == {"hasNextPage": False}
    for arguments in ("first:-1", "last:-1", "first:1000000", 'after:"garbage"', 'before:"AAAA"'):
        refused = client.graphql(f"{{videos({arguments}){{edges{{cursor}}}}}}")
        assert refused.code == "BAD_INPUT" and refused.message, arguments
    app = make_server()
    gallery = app.extensions[SERVICE].library.root / "gallery"
    (gallery / "clip.mp4").rename(gallery / "a#1 50%.mp4")
    client = DemoClient(app.test_client())
    video = client.graphql(f"{{defaultVideo{fields}}}")["defaultVideo"]
    assert (video["path"], video["url"]) == ("gallery/a#1 50%.mp4", "http://localhost/gallery/a%231%2050%25.mp4")
    assert client.http.get(video["url"]).status_code == client.http.get(video["posterUrl"]).status_code == 200
    other = DemoClient(make_server(api_url="https://demo.example", default_video="gallery/none.mp4").test_client())
    assert other.graphql("{defaultVideo{url}}")["defaultVideo"]["url"] == "https://demo.example/gallery/clip.mp4"


@pytest.mark.parametrize(
    ("ranges", "status", "first", "last"),
    [("bytes=10-19", 206, 10, 19), ("bytes=0-9,20-29", 200, 0, None), ("bytes=5-,7-", 200, 0, None)],
)
def test_ranges_of_videos(client, clip_file, ranges, status, first, last):
    """A request of several ranges gets the whole file."""
    content = clip_file.read_bytes()
    answer = client.http.get("/gallery/clip.mp4", headers={"Range": ranges})
    assert answer.status_code == status
    assert answer.data == content[first : len(content) if last is None else last + 1]


def test_messages_do_not_show_where_files_are(make_server, clip_file):
    """A damaged upload, videos that are damaged before and while they are used, an empty and a deleted gallery."""
    app = make_server()
    client, root = DemoClient(app.test_client()), app.extensions[SERVICE].library.root
    file, damaged = root / "gallery/clip.mp4", clip_file.read_bytes()[:300]
    session = client.start()
    client.add(session)
    file.write_bytes(damaged)
    refused = [client.upload(damaged), client.start()]
    assert [refusal.code for refusal in refused] == ["BAD_VIDEO", "BAD_INPUT"]
    assert "gallery/clip.mp4" in refused[1].message
    messages = [refusal.message for refusal in refused]
    for path in ("frames/3.jpg", "export?format=overlay_mp4"):
        answer = client.http.get(f"/api/sessions/{session}/{path}")
        assert answer.status_code >= 400
        messages.append(answer.get_json()["error"]["message"])
    client.track(session)
    messages.append(client.facts(session)["problem"] or "none")  # its frames may have been decoded before
    file.unlink()
    refused = client.graphql("{defaultVideo{path}}")
    assert refused.code == "NOT_FOUND" and "the gallery is empty: put MP4 files into" in refused.message
    assert client.graphql("{videos{edges{cursor}}}") == {"videos": {"edges": []}}
    client.close(session)
    shutil.rmtree(root)
    for path in ("/gallery/clip.mp4", "/api/sessions/x/export?format=cutout"):
        messages.append(client.http.get(path).get_data(as_text=True))
    for message in (*messages, refused.message, client.start().message):
        assert message and str(root) not in message and "/tmp" not in message, message


@pytest.fixture
def bundle_client(tmp_path, make_server, monkeypatch):
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<title>the page</title>")
    (tmp_path / "assets/index-abc123.js").write_text("1")
    (tmp_path / "favicon.svg").write_text("<svg/>")
    monkeypatch.setattr(rest, "BUNDLE", tmp_path)
    return make_server().test_client()


def test_pages(bundle_client):
    for path in ("/", "/help", "/a/b", "/index.html"):
        answer = bundle_client.get(path)
        assert b"the page" in answer.data and answer.headers["Cache-Control"] == "no-cache"
    script = bundle_client.get("/assets/index-abc123.js")
    assert script.data == b"1" and "immutable" in script.headers["Cache-Control"]
    assert "javascript" in script.content_type
    assert bundle_client.get("/favicon.svg").status_code == 200
    for path in ("/missing.js", "/assets/none.js", "/api/none", "/uploads/none", "/gallery/none"):
        assert bundle_client.get(path).status_code == 404
    assert bundle_client.get("/propagate_in_video").status_code in (404, 405)


def test_a_missing_bundle_is_explained(bundle_client, tmp_path):
    (tmp_path / "index.html").unlink()
    answer = bundle_client.get("/")
    assert answer.status_code == 503 and b"make frontend" in answer.data
