"""Remote places: urls of fsspec go in (s3://bucket/prefix), bytes and errors in words come out.

A url may be chained as fsspec has it: simplecache::s3://bucket/prefix keeps whole files that were
read on this machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENOSPC, ETIMEDOUT
from typing import Any

import fsspec

from prag_core.files import FULL, is_full


def filesystem(url: str) -> tuple[Any, str]:
    """Return the file system of a url or path, and the path within it."""
    with clear_remote_errors(url):
        system, root = fsspec.url_to_fs(url)
    return system, str(root).rstrip("/")


def read_url(url: str, start: int | None = None, stop: int | None = None) -> bytes:
    """Read a file, or its bytes from start to stop; errors as in `clear_remote_errors`."""
    system, path = filesystem(url)
    with clear_remote_errors(url):
        content: bytes = system.cat_file(path, start=start, end=stop)
    return content


@contextmanager
def clear_remote_errors(url: str) -> Iterator[None]:
    """Let errors of file systems say got, expected and remedy.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a kind of url that is unknown, or whose package is missing.
        OSError: of number ENOSPC, where a disk is full; of ETIMEDOUT, where nobody answers or
            nobody is let in.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"got nothing at {url} ({error}), expected a file or bucket there: check the url"
        ) from error
    except ImportError as error:
        raise ValueError(
            f"got {url} ({error}), expected the package that reads such urls: pip install "
            "'prag[remote]' for s3://, or fsspec's package for another kind"
        ) from error
    except ValueError as error:  # of fsspec: no such protocol
        raise ValueError(
            f"got {url} ({error}), expected a url of fsspec such as s3://bucket/prefix: correct it"
        ) from error
    except Exception as error:  # every file system has errors of its own
        if is_full(error):  # the disk of this machine, mostly, to which files are fetched
            name = getattr(error, "filename", None) or f"the files of {url}"
            raise OSError(ENOSPC, FULL.format(name)) from error
        # The number of a failure that may pass: what cannot be reached is not damaged.
        raise OSError(
            ETIMEDOUT,
            f"got {url}, which cannot be read or written ({type(error).__name__}: {error}), "
            "expected a place that answers and lets you in: check url, network and credentials "
            "(s3: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, or a profile)",
        ) from error
