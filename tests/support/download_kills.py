"""``sam2fast download`` disturbed, looked at, and run again."""

import os
import random
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from checkpoint_faults import cut, reset, stall
from checkpoint_server import COMMIT, CheckpointServer, Served, make_checkpoint
from disturbed import Disturbance, after_signal, can_mount, chosen, small_disk
from killed import Ended, Fault, Sent, forked, session_of, started
from waiting import wait_until

from sam2fast.cli import main
from sam2fast.downloads import names, settings, sources

FILE, REPO = "sam2.1_hiera_tiny.pt", "facebook/sam2.1-hiera-tiny"
DATA = make_checkpoint()
OTHER = make_checkpoint(280_000, seed=1)
# From a mirror or the hub into the cache of each, from a mirror into a folder, into a folder from a cache.
WAYS = ("mirror", "hub", "folder", "copy")
UNSET = ("SAM2FAST_CHECKPOINTS", "SAM2FAST_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE")


class Place(NamedTuple):
    """A machine of its own: its folder, which has nothing before, and how it is asked for the checkpoint."""

    root: Path
    way: str

    @property
    def out(self) -> Path:
        return self.root / {"mirror": "own", "hub": "hugging"}.get(self.way, "to")

    @property
    def arguments(self) -> list[str]:
        return ["download", "tiny", "--quiet", *(["--to", str(self.out)] if self.out.name == "to" else [])]

    def environment(self, server: CheckpointServer) -> dict[str, str]:
        own = self.root / ("full" if self.way == "copy" else "own")
        named = {"SAM2FAST_CACHE": str(own), "HF_HOME": str(self.root / "hugging"), "NO_PROXY": "*"}
        source = {"HF_ENDPOINT": f"{server.url}/hub"}
        if self.way in ("mirror", "folder"):
            source["SAM2FAST_MIRROR"] = server.url
        kept = {name: value for name, value in os.environ.items() if name not in (*UNSET, "SAM2FAST_MIRROR")}
        return {**kept, **named, **source}

    def prepare(self, data: bytes) -> "Place":
        if self.way == "copy":
            (self.root / "full").mkdir(parents=True)
            (self.root / "full" / FILE).write_bytes(data)
        return self


class DownloadKills:
    """See tests/faults/campaign.py.

    Args:
        folder: for undisturbed downloads.
    """

    def __init__(self, folder: Path) -> None:
        settings.hub_token(), sources.Order  # noqa: B018  (loads what copies of this process would each load)
        self.server = CheckpointServer()
        self._running = self.server.running()
        self._running.__enter__()
        self.publish(DATA)
        self.names: dict[str, list[str]] = {}
        self.changes: dict[str, int] = {}
        for way in WAYS:
            place = Place(folder / way, way).prepare(DATA)
            ended = forked(self.command(place), Fault(folder=place.out))
            assert (ended.code, ended.stderr) == (0, "") and Path(ended.stdout.strip()).read_bytes() == DATA, ended
            self.names[way], self.changes[way] = files(place.out), ended.changes

    def close(self) -> None:
        """Ends the server, whose threads copies of this process would do without."""
        self._running.__exit__(None, None, None)

    def publish(self, data: bytes) -> Served:
        """Puts this version on the mirror and the hub; what is served of it from now on."""
        self.server.hub_files.clear()
        file = self.server.add_to_hub(REPO, FILE, data)
        self.server.files[f"/{FILE}"] = file
        return file

    def command(self, place: Place) -> Callable[[], None]:
        place.root.mkdir(parents=True, exist_ok=True)

        def work() -> None:
            os.environ.clear()
            os.environ.update(place.environment(self.server))
            os.chdir(place.root)
            for hub_id, release in list(names.RELEASES.items()):  # Meta's address is nowhere
                names.RELEASES[hub_id] = release._replace(url=f"{self.server.url}/meta/{release.checkpoint}")
            main(place.arguments, prog_name="sam2fast")

        return work

    def goes_on(self, place: Place) -> Ended:
        """The same command again has the file, and leaves nothing but what an undisturbed one leaves."""
        ended = forked(self.command(place))
        assert ended.code == 0 and ended.stderr == "", ended
        assert Path(ended.stdout.strip()).read_bytes() in (DATA, OTHER), ended
        if Path(ended.stdout.strip()).is_relative_to(place.out):  # not from the hub, where the mirror's disk was full
            self._check_names(place)
        return ended

    def _check_names(self, place: Place) -> None:
        found, expected = files(place.out), self.names[place.way]
        if place.way == "hub":  # whose names are those of contents; parts of another version wait for it
            assert len(found) >= len(expected) and not any(name.endswith(".link") for name in found), found
            return
        # Killed right after the file was in its place: it is found, and nobody comes by again.
        harmless = {f"{FILE}.part.json", f".{FILE}.lock"} if place.way != "copy" else {f".{FILE}.lock"}
        assert set(expected) <= set(found) <= {*expected, *harmless}, found

    def disturb(self, rng: random.Random, folder: Path) -> str:
        """See tests/faults/campaign.py."""
        data = rng.choice([DATA, OTHER])
        place, served = Place(folder, rng.choice(WAYS)).prepare(data), self.publish(data)
        told = []
        for _ in range(rng.randint(1, 3)):
            if rng.random() < 0.4:
                at = rng.randrange(1000, 270_000)
                served.faults[:] = [rng.choice([cut(at), reset(at), stall(at, rng.uniform(0.0, 0.5))])]
            told.append(self._once(rng, place))
            left_whole(place)
            if rng.random() < 0.3:  # a new version in the meantime
                served = self.publish(rng.choice([DATA, OTHER]))
        served.faults.clear()
        self.goes_on(place)
        return f"{place.way}: {'; '.join(told)}"

    def _once(self, rng: random.Random, place: Place) -> str:
        kind = rng.random()
        if kind < 0.15:
            return self._in_a_process(rng, place)
        if kind < 0.25 and place.way == "folder" and can_mount():
            return self._small_disk(rng, place)
        disturbance = chosen(rng, place.out, self.changes[place.way], seconds=0.4)
        if kind > 0.8:
            return f"beside another: {self._beside_another(disturbance, place)}"
        ended = forked(self.command(place), disturbance.fault, disturbance.sent)
        check(disturbance, ended)
        return f"{disturbance.told} -> {ended.code}"

    def _beside_another(self, disturbance: Disturbance, place: Place) -> str:
        """One of two that download the same at once is disturbed."""
        ends: list[Ended] = []

        def other() -> None:
            ends.append(forked(self.command(place), disturbance.fault, disturbance.sent))

        disturbance = disturbance._replace(is_certain=False)  # the other may do it all
        thread = threading.Thread(target=other)
        thread.start()
        undisturbed = forked(self.command(place))
        thread.join()
        check(disturbance, ends[0])
        lines = [line for line in said(undisturbed) if "another process is downloading" not in line]
        assert undisturbed.code == 0 and not lines, undisturbed
        return f"{disturbance.told} -> {ends[0].code}"

    def _in_a_process(self, rng: random.Random, place: Place) -> str:
        number, after = rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGKILL]), rng.uniform(0.0, 2.0)
        place.root.mkdir(parents=True, exist_ok=True)
        environment: Mapping[str, str] = place.environment(self.server)
        arguments = ["-m", "sam2fast", *place.arguments]
        ended = started(arguments, [Sent(number, after)], env=environment, cwd=place.root)
        assert wait_until(lambda: not session_of(ended.pid)), ended
        if "init_import_site" not in ended.stderr:  # Python itself was not ready
            after_signal(ended._replace(stderr="\n".join(said(ended))), [number], from_the_first_import=after < 1)
        return f"process, {number.name} after {after:.2f} s -> {ended.code}"

    def _small_disk(self, rng: random.Random, place: Place) -> str:
        with small_disk(place.root / "disk", rng.randint(4, 320)) as disk:
            ended = forked(self.command(Place(disk, place.way)))
            after_full_disk(ended)
            left_whole(Place(disk, place.way))
        return f"small disk -> {ended.code}"


def check(disturbance: Disturbance, ended: Ended) -> None:
    """As it does itself; a full disk at one source is told before the next one is asked."""
    if disturbance.is_full_disk:
        after_full_disk(ended)
    else:
        disturbance.check(ended._replace(stderr="\n".join(said(ended))))


def said(ended: Ended) -> list[str]:
    """Lines other than notes."""
    lines = [line for line in ended.stderr.splitlines() if line]
    return [line for line in lines if not line.startswith(("sam2fast: note: ", "another process is downloading"))]


def after_full_disk(ended: Ended) -> None:
    if ended.code == 0:
        return
    (line,) = said(ended)
    reasons = ("No space left on device", "File too large", "MB are free")
    assert ended.code == 1 and line.startswith(f"sam2fast: {FILE} could not be downloaded. ") or "copied" in line, ended
    assert any(reason in line for reason in reasons), ended


def left_whole(place: Place) -> None:
    """Checks that what is under the file's name, or under that of its content, is one version, whole."""
    for path in place.out.rglob("*") if place.out.is_dir() else ():
        is_blob = path.parent.name == "blobs" and "." not in path.name
        if path.name == FILE or is_blob:
            assert path.read_bytes() in (DATA, OTHER), path
        elif path.parent.name == "refs":
            assert path.name == "main" and path.read_text() == COMMIT


def files(folder: Path) -> list[str]:
    found = (path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    return sorted(str(path.relative_to(folder)) for path in found)
