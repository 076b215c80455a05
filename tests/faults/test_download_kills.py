"""Downloads that are killed, interrupted or out of disk at some of their steps, and go on."""

import signal
from collections.abc import Iterator
from pathlib import Path

import checkpoint_server
import pytest
from checkpoint_server import Served
from download_kills import (
    DATA,
    FILE,
    OTHER,
    WAYS,
    DownloadKills,
    Place,
    after_full_disk,
    left_whole,
    said,
)
from killed import Fault, forked
from no_privileges import permissions_count

SIZES = (1, 299_000)


@pytest.fixture(scope="module")
def kills(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DownloadKills]:
    kills = DownloadKills(tmp_path_factory.mktemp("undisturbed"))
    yield kills
    kills.close()


@pytest.fixture(autouse=True)
def published(kills: DownloadKills) -> Iterator[None]:
    kills.publish(DATA)
    yield


@pytest.mark.parametrize("way", WAYS)
def test_killed_at_some_steps(kills: DownloadKills, way: str, tmp_path: Path) -> None:
    for change in range(0, kills.changes[way], 4 if way == "hub" else 2):
        place = Place(tmp_path / str(change), way).prepare(DATA)
        assert forked(kills.command(place), Fault(change, place.out)).code == -signal.SIGKILL
        left_whole(place)
        kills.goes_on(place)


@pytest.mark.parametrize("way", WAYS)
def test_interrupted_and_told_to_end_at_some_steps(kills: DownloadKills, way: str, tmp_path: Path) -> None:
    place = Place(tmp_path, way).prepare(DATA)
    for number, change in ((signal.SIGINT, 1), (signal.SIGTERM, kills.changes[way] // 2)):
        ended = forked(kills.command(place), Fault(change, place.out, number))
        assert ended.code == 128 + number, ended
        assert said(ended) == ["sam2fast: interrupted; the same command goes on where this one was"]
        left_whole(place)
    kills.goes_on(place)


@pytest.mark.parametrize("way", WAYS)
def test_a_full_disk_is_told_and_spoils_nothing(kills: DownloadKills, way: str, tmp_path: Path) -> None:
    faults = [Fault(size=size, number=None) for size in SIZES]
    faults += [Fault(2, tmp_path, number=None)]
    for number, fault in enumerate(faults):
        place = Place(tmp_path / str(number), way).prepare(DATA)
        ended = forked(kills.command(place), fault)
        assert ended.code == 1, (fault, ended)
        after_full_disk(ended)
        left_whole(place)
        kills.goes_on(place)


@pytest.mark.parametrize("way", ["mirror", "hub"])
def test_another_version_after_a_kill(kills: DownloadKills, way: str, tmp_path: Path) -> None:
    """Never a mixture of both."""
    place = Place(tmp_path, way)
    assert forked(kills.command(place), Fault(size=150_000)).code == -signal.SIGXFSZ
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.part")) == 150_000
    kills.publish(OTHER)
    assert Path(kills.goes_on(place).stdout.strip()).read_bytes() == OTHER


def test_a_record_of_nonsense_is_forgotten(kills: DownloadKills, tmp_path: Path) -> None:
    """Of a part, where something else has written into the cache."""
    url = f"{kills.server.url}/{FILE}"
    for content in (
        f'{{"url": "{url}", "total": "many"}}', f'{{"url": "{url}", "total": 1e9}}', f'{{"url": "{url}", "etag": 5}}',
        f'{{"url": "{url}", "total": -1}}', "[]", "{}", "\0" * 100, "[" * 100_000,
    ):  # fmt: skip
        place = Place(tmp_path / str(len(list(tmp_path.iterdir()))), "mirror")
        place.out.mkdir(parents=True)
        (place.out / f"{FILE}.part").write_bytes(OTHER[:1000])
        (place.out / f"{FILE}.part.json").write_text(content)
        assert Path(kills.goes_on(place).stdout.strip()).read_bytes() == DATA


def test_a_folder_that_cannot_be_written(kills: DownloadKills, tmp_path: Path) -> None:
    for number, way in enumerate(("mirror", "folder", "copy")):
        place = Place(tmp_path / way, way).prepare(DATA)
        place.root.mkdir(exist_ok=True)
        if number == 0:
            place.out.write_bytes(b"a file")
            place.root.chmod(0o555)  # the hub, which is asked next, would have its cache there
        else:
            place.out.mkdir(mode=0o555)
        with permissions_count():  # also in copies of this process
            ended = forked(kills.command(place))
        (line,) = said(ended)
        assert ended.code == 1 and f"cannot write in {place.out}" in line, ended
        assert "(File exists)" in line or "(Permission denied)" in line or "(Not a directory)" in line, ended


def test_a_file_system_without_locks(kills: DownloadKills, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose files can be downloaded all the same."""

    def flock(file: object, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    place = Place(tmp_path, "mirror")
    ended = forked(kills.command(place))
    assert ended.code == 0 and (place.out / FILE).read_bytes() == DATA, ended


@pytest.mark.parametrize("name", ["../../outside", "/outside", "..", ".hidden", "a/b"])
def test_a_server_cannot_choose_the_place(
    kills: DownloadKills, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what it says that the content or the version is called, which names files of the cache."""
    for what in ("sha256", "commit"):
        with monkeypatch.context() as patch:
            if what == "sha256":
                patch.setattr(Served, "sha256", property(lambda self: name))
            else:
                patch.setattr(checkpoint_server, "COMMIT", name)
            ended = forked(kills.command(Place(tmp_path / what, "hub")))
        assert ended.code == 1 and "does not answer as the Hugging Face hub does" in ended.stderr, ended
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
