"""Two machines and one remote cache, by the command line: command targets, a folder as remote."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from olivebuild.cache.remote_records import Signature, envelope, opened
from tests.conftest import Done, Place

RECIPE = """\
default: last
targets:
  first: {kind: command, run: "python make.py in.txt {outputs.x}", files: [in.txt, make.py],
          outputs: {x: x.bin}}
  middle: {kind: command, run: "python make.py {inputs.first} {outputs.y}", files: [make.py],
           inputs: {first: first.x}, outputs: {y: y.bin}}
  last: {kind: command, run: "python make.py {inputs.middle} {outputs.z}", files: [make.py],
         inputs: {middle: middle.y}, outputs: {z: z.bin}}
"""
MAKE = """\
import hashlib, random, sys
seed = hashlib.sha256(open(sys.argv[1], "rb").read()).digest()
open(sys.argv[2], "wb").write(random.Random(seed).randbytes(SIZE))
"""


class Team:
    """Machines with a cache of their own each, and one remote cache."""

    def __init__(self, root: Path, size: int = 3000) -> None:
        self.root, self.size = root, size
        self.remote = root / "remote"

    def machine(self, name: str, **environment: str) -> Place:
        place = Place(self.root / name, self.root / f"{name}-cache")
        place.folder.mkdir()
        place.recipe.write_text(RECIPE)
        (place.folder / "make.py").write_text(MAKE.replace("SIZE", str(self.size)))
        (place.folder / "in.txt").write_text("input")
        place.environment |= {
            "OLIVEBUILD_REMOTE": self.remote.as_uri(),
            "OLIVEBUILD_CONFIG": str(self.root / f"{name}-config"),
        } | environment
        return place

    def objects(self, kind: str) -> list[Path]:
        return sorted(p for p in self.remote.glob(f"v1/{kind}/??/*") if p.is_file())


@pytest.fixture
def team(tmp_path: Path) -> Team:
    return Team(tmp_path)


def notes(done: Done) -> list[str]:
    return [e["text"] for e in done.events if e["event"] == "note"]


def test_a_second_machine_restores_everything(team: Team) -> None:
    one, other = team.machine("one"), team.machine("other")
    assert one.build().end["ran"] == ["first", "middle", "last"]
    done = other.build()
    assert (done.end["ran"], done.end["restored"]) == ([], ["first", "middle", "last"])
    assert other.everything() == one.everything()
    # What one edits and builds, the other gets.
    for place in (one, other):
        (place.folder / "in.txt").write_text("edited")
    assert one.build().end["ran"] == ["first", "middle", "last"]
    assert other.build().end["ran"] == []
    assert other.everything() == one.everything()
    assert other.build().end["restored"] == []


def test_pull_brings_what_the_goals_need(team: Team) -> None:
    one, other = team.machine("one"), team.machine("other")
    one.build()
    done = other.run("remote", "pull", "middle", "--json")
    pulled = json.loads(done.out)
    assert (pulled["brought"], pulled["left"]) == (["first", "middle"], [])
    assert pulled["bytes"] > 2 * team.size
    del other.environment["OLIVEBUILD_REMOTE"]
    assert other.build("middle").end["ran"] == []
    assert other.build("last").end["ran"] == ["last"]


def test_only_what_the_remote_lacks_is_made(team: Team) -> None:
    one, other = team.machine("one"), team.machine("other")
    one.build("middle")
    assert other.build().end["ran"] == ["last"]
    # That is there now, too.
    assert len(team.objects("traces")) == 3
    status = json.loads(one.run("remote", "status", "--json").out)
    assert status["results"] == {"first": "both", "middle": "both", "last": "remote"}


def test_push_brings_what_was_made_before(team: Team) -> None:
    one, other = team.machine("one"), team.machine("other")
    del one.environment["OLIVEBUILD_REMOTE"]
    one.build()
    done = one.run("remote", "push", "--url", team.remote.as_uri(), "--json")
    assert json.loads(done.out)["uploaded"] == ["first", "last", "middle"]
    done = one.run("remote", "push", "--url", team.remote.as_uri(), "--json")
    assert json.loads(done.out)["uploaded"] == []
    assert other.build().end["ran"] == []
    done = one.run("remote", "push")
    assert done.code == 2
    assert "no remote cache is named" in done.err


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


@pytest.mark.parametrize("kind", ["blobs", "traces"])
@pytest.mark.parametrize("harm", [flip, cut, lengthen, Path.unlink])
def test_what_is_harmed_is_made_here(team: Team, kind: str, harm: Callable[[Path], None]) -> None:
    one, other = team.machine("one"), team.machine("other")
    one.build()
    for path in team.objects(kind):
        harm(path)
    done = other.build()
    assert done.code == 0, done.err
    assert done.end["ran"] == ["first", "middle", "last"]
    assert other.everything() == one.everything()
    said = [text for text in notes(done) if "remote cache's result is not used" in text]
    # A trace that is not there is no fault.
    assert bool(said) is not (kind == "traces" and harm is Path.unlink)


def test_a_result_under_the_key_of_another_is_not_taken(team: Team) -> None:
    one, other = team.machine("one"), team.machine("other")
    one.build()
    first, second, third = team.objects("traces")
    texts = [path.read_bytes() for path in (first, second, third)]
    for path, text in zip((second, third, first), texts, strict=True):
        path.write_bytes(text)
    done = other.build()
    assert done.end["ran"] == ["first", "middle", "last"]
    assert any("another key's" in text for text in notes(done))


def signed(team: Team) -> tuple[Place, Place, str]:
    """Return a machine that signs, one that trusts it, and the public key."""
    one = team.machine("one")
    key = one.run("remote", "keygen").out.split()[-1]
    return one, team.machine("other", OLIVEBUILD_TRUSTED_KEYS=key), key


def test_signed_results_are_taken(team: Team) -> None:
    one, other, key = signed(team)
    one.build()
    assert other.build().end["ran"] == []
    last = team.machine("last", OLIVEBUILD_TRUSTED_KEYS=key, OLIVEBUILD_REVOKED_KEYS=key)
    done = last.build()
    assert done.end["ran"] == ["first", "middle", "last"]
    assert any("revoked" in text for text in notes(done))


def test_others_are_not_where_there_are_trusted_keys(team: Team) -> None:
    _, other, _ = signed(team)
    stranger = team.machine("stranger")
    stranger.build()
    done = other.build()
    assert done.end["ran"] == ["first", "middle", "last"]
    assert any("not signed" in text for text in notes(done))


def test_a_signed_result_that_was_altered_is_not_taken(team: Team) -> None:
    one, other, _ = signed(team)
    one.build()
    for path in team.objects("traces"):
        body, signature = opened(path.read_bytes())
        altered = body.replace(b'"seconds":', b'"seconds":1')
        path.write_bytes(envelope(altered, signature))
    done = other.build()
    assert done.end["ran"] == ["first", "middle", "last"]
    assert any("is not right" in text for text in notes(done))
    for path in team.objects("traces"):
        path.write_bytes(envelope(opened(path.read_bytes())[0], Signature()))
    assert team.machine("third", **other.environment).build().end["ran"] != []


@pytest.fixture
def silent() -> Iterator[str]:
    """Yield the address of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"


def test_a_remote_that_is_silent_stops_no_build(team: Team, silent: str) -> None:
    place = team.machine("one", OLIVEBUILD_REMOTE=silent, OLIVEBUILD_REMOTE_TIMEOUT="1")
    start = time.monotonic()
    done = place.build()
    assert done.end["ran"] == ["first", "middle", "last"]
    assert any("has not answered for 1 s" in text for text in notes(done))
    assert time.monotonic() - start < 60


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://127.0.0.1:9/", "nobody answers"),
        ("ftp://there/", "no place for a remote cache"),
        ("file://relative/path", "no place for a remote cache"),
    ],
)
def test_a_remote_that_is_not_there_stops_no_build(team: Team, url: str, why: str) -> None:
    done = team.machine("one", OLIVEBUILD_REMOTE=url).build()
    assert done.code == 0, done.err
    assert done.end["ran"] == ["first", "middle", "last"]
    assert any(why in text for text in notes(done)), notes(done)


class Files(http.server.SimpleHTTPRequestHandler):
    """Serves the remote cache of a team; of blobs, where it is slow, 1000 bytes each 0.1 s."""

    slow = False

    def log_message(self, *_: object) -> None:
        pass

    def copyfile(self, source: Any, outputfile: Any) -> None:
        if not self.slow or "/blobs/" not in self.path:
            super().copyfile(source, outputfile)
            return
        with contextlib.suppress(OSError):
            while piece := source.read(1000):
                outputfile.write(piece)
                time.sleep(0.1)


@contextlib.contextmanager
def web_server(team: Team, *, slow: bool = False) -> Iterator[str]:
    handler = type("Handler", (Files,), {"slow": slow})
    serve = functools.partial(handler, directory=str(team.remote))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def test_a_web_server_is_read_from(team: Team) -> None:
    one = team.machine("one")
    one.build()
    with web_server(team) as url:
        other = team.machine("other", OLIVEBUILD_REMOTE=url)
        assert other.build().end["ran"] == []
        (other.folder / "in.txt").write_text("edited")
        done = other.build()
        assert done.end["ran"] == ["first", "middle", "last"]
        assert not any("uploaded" in text for text in notes(done))
        done = other.run("remote", "push")
        assert (done.code, "read from only" in done.err) == (2, True)


def test_a_remote_that_is_slow_stops_no_build(tmp_path: Path) -> None:
    team = Team(tmp_path, size=3_000_000)
    team.machine("one").build()
    with web_server(team, slow=True) as url:
        place = team.machine("other", OLIVEBUILD_REMOTE=url, OLIVEBUILD_REMOTE_TIMEOUT="1")
        done = place.build()
    assert done.code == 0, done.err
    assert done.end["ran"] == ["first", "middle", "last"]
    assert any("slower than 100 kB a second" in text for text in notes(done)), notes(done)


def test_what_is_not_uploaded_is_told(team: Team, silent: str) -> None:
    address = silent.removeprefix("http://").rstrip("/")
    place = team.machine(
        "one",
        OLIVEBUILD_REMOTE="s3://team/cache",
        OLIVEBUILD_REMOTE_TIMEOUT="1",
        AWS_ENDPOINT_URL=f"http://{address}",
        AWS_ACCESS_KEY_ID="key",
        AWS_SECRET_ACCESS_KEY="secret",
        AWS_DEFAULT_REGION="us-east-1",
    )
    said = notes(place.build())
    assert "3 results were not uploaded; `olivebuild remote push` does that" in said


def test_a_recipe_names_no_remote(team: Team) -> None:
    place = team.machine("one")
    del place.environment["OLIVEBUILD_REMOTE"]
    place.edit("default: last", f"default: last\ncache: {{remote: '{team.remote.as_uri()}'}}")
    assert place.build().code == 0
    assert not team.remote.exists()


def test_killed_transfers_leave_nothing_wrong(tmp_path: Path) -> None:
    """Uploads and downloads are killed at random; what is to be seen is right, or is not there."""
    chance = random.Random(os.environ.get("OLIVEBUILD_SEED", "1"))
    team = Team(tmp_path, size=6_000_000)
    one = team.machine("one")
    del one.environment["OLIVEBUILD_REMOTE"]
    one.build()
    want = one.everything()
    one.environment["OLIVEBUILD_REMOTE"] = team.remote.as_uri()
    for number in range(int(os.environ.get("OLIVEBUILD_KILLS", "4"))):
        if number % 4 == 0:
            # Else the first push that ends leaves nothing to be uploaded.
            shutil.rmtree(team.remote, ignore_errors=True)
        kill = (kill_during, kill_transfer)[number % 2]
        kill(one.start("remote", "push"), chance.uniform(0.1, 1.2))
        other = team.machine(f"other{number}")
        kill(other.start("build", "--json"), chance.uniform(0.1, 1.2))
        done = other.build()
        assert done.code == 0, done.err
        assert other.everything() == want
        assert not any("not used" in text for text in notes(done))
        shutil.rmtree(other.cache)


def kill_during(process: subprocess.Popen[str], seconds: float) -> None:
    time.sleep(seconds)
    process.kill()
    process.communicate()


def kill_transfer(process: subprocess.Popen[str], seconds: float) -> None:
    """Kill the process that moves the bytes. A build goes on without it, and a push says so."""
    time.sleep(seconds)
    children: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children()
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            if "olivebuild.ml.transfer.process" in child.cmdline():
                child.kill()
    _, err = process.communicate()
    assert process.returncode == 0 or "its process has ended" in err
