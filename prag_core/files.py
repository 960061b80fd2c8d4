"""Files: whole or not at all, and what errors of the disk mean, in words for users."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from errno import EDQUOT, EFBIG, EIO, EMFILE, ENFILE, ENOLCK, ENOSPC, ENOTSUP, ETIMEDOUT
from pathlib import Path

from filelock import FileLock, Timeout

ROOMLESS = (ENOSPC, EDQUOT, EFBIG, EIO)
FAILURES = (*ROOMLESS, EMFILE, ENFILE, ETIMEDOUT)  # of the machine, not of what a user wrote
FULL = "got no room to write {}, expected free space: free some and try again; all is kept that was"
# What libraries and other programs say of them, in words alone.
FULL_WORDS = tuple(os.strerror(number) for number in (ENOSPC, EDQUOT))


def cache_folder() -> Path:
    """Folder of the cache: `$PRAG_CACHE`, else `$XDG_CACHE_HOME/prag`, else `~/.cache/prag`.

    Raises:
        ValueError: none of them, as for a user without HOME and without an entry in passwd.
    """
    if named := os.environ.get("PRAG_CACHE"):
        return Path(named)
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return Path(caches) / "prag"
    try:
        return Path.home() / ".cache" / "prag"
    except RuntimeError as error:
        raise ValueError(
            "got no home folder (no HOME, and no such user), expected a folder for "
            "the cache: set PRAG_CACHE to one"
        ) from error


def remove_with(owner: object, folder: str | Path) -> None:
    """Remove a folder together with an object, at the latest with this process; no fork does."""
    process = os.getpid()

    def remove() -> None:
        if os.getpid() == process:
            shutil.rmtree(folder, ignore_errors=True)

    weakref.finalize(owner, remove)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a folder for this process; TimeoutError where another has it. A dead one has nothing."""
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise TimeoutError(
            ETIMEDOUT,
            f"got {folder}, which another process writes to, expected one at a time: wait until it "
            "has ended, or choose another folder",
        ) from error
    except OSError as error:  # a file system without locks keeps nobody out
        if error.errno not in (ENOLCK, ENOTSUP):
            raise
    try:
        yield
    finally:
        lock.release()


def local_place(place: str | Path) -> str:
    """Return the path that a file:// url means; another place as it is."""
    return str(place).removeprefix("file://")


def is_url(place: str | Path) -> bool:
    """Say whether a place is a url; else it is a path."""
    return "://" in str(place)


def write_json(path: Path, value: object) -> None:
    """Write JSON under a temporary name, then rename."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"
    write_whole(path, json_bytes(text))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)  # readable by whoever reads the folder


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside a file; what is written there takes its place at the end.

    What a full disk or Ctrl-C cuts short is removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_lines(path: Path, records: Iterable[Mapping]) -> None:
    """Write JSON lines, compressed where the name ends in .gz, then rename."""
    with replacing(path) as temporary, temporary.open("wb") as raw:
        # Without name and time, so that the same rows are the same bytes.
        zipped = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if path.suffix == ".gz" else raw
        with zipped as file:
            for record in records:
                file.write((json.dumps(record, ensure_ascii=False) + "\n").encode())


def write_set(
    folder: Path, corpus: Iterable[Mapping], questions: Iterable[Mapping], ending: str = "jsonl"
) -> None:
    """Write a question set's two files; compressed with the ending `jsonl.gz`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, records in (("corpus", corpus), ("questions", questions)):
        write_lines(folder / f"{name}.{ending}", records)


def require_no_set(folder: Path, made: str = "") -> None:
    """Raise ValueError for a folder with a question set, unless this command's file is there.

    Args:
        folder: where a question set is to be written.
        made: name of a file that the command leaves beside its own sets, if it goes on with them.
    """
    found = [*folder.glob("corpus.jsonl*"), *folder.glob("questions.jsonl*")]
    if found and not (made and (folder / made).exists()):
        raise ValueError(
            f"got {folder}, which holds {found[0].name} of another question set, expected a folder "
            "for the new one: choose another"
        )


def whole_lines(path: Path) -> list[bytes]:
    """Read a file's lines; a last one that was cut off by an interruption is removed from it."""
    if not path.exists():
        return []
    # Bytes: str.splitlines() would also cut at separators inside a text, such as U+2028.
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        os.truncate(path, end)
    return content[:end].split(b"\n")[:-1]


def json_bytes(text: str) -> bytes:
    """Encode JSON as UTF-8; half a character (of a file's name, say) becomes JSON's escape."""
    return text.encode("utf-8", "backslashreplace")


def sentence(error: Exception) -> str:
    """Say what an error means: got, expected and remedy, also where the system raised it."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    if error.strerror.startswith("got "):  # ours: the number in front is for programs
        return error.strerror
    if is_full(error):
        return FULL.format(error.filename or "a file")
    if error.filename is None:  # of a network, say
        return str(error)
    name = os.fsdecode(error.filename)
    return (
        f"got {name!r} ({error.strerror}), expected a path that can be read and written: choose "
        "another, or change its permissions"
    )


def is_full(error: BaseException) -> bool:
    """Say whether an error, of whatever library, means a full disk."""
    number = getattr(error, "errno", None)
    return number in (ENOSPC, EDQUOT) or any(words in str(error) for words in FULL_WORDS)
