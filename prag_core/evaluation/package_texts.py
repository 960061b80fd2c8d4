"""Package texts: an installed package goes in, paragraphs of its documentation come out.

Text that is not from Wikipedia and is on every machine already: what the package's modules,
classes and functions say of themselves (docstrings), read from its files without importing it.
`numpy` is a dependency of this one, under the BSD 3-Clause licence: 413 paragraphs in 2.4.6.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import metadata

FEWEST_WORDS, MOST_WORDS = 35, 200  # of a paragraph, as of an introduction
PARAGRAPH = re.compile(r"\n\s*\n")
# What documents parameters or shows code is a list, no running text.
LIST = re.compile(r">>>|-----|^(Args|Returns|Raises|Attributes)\b")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def package_texts(name: str) -> list[str]:
    """Return the distinct paragraphs, in the order of the package's files.

    Raises:
        ValueError: no such package is installed.
    """
    paragraphs: dict[str, None] = {}
    for source in _sources(_distribution(name)):
        try:
            nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, DOCUMENTED)]
        except (SyntaxError, ValueError):  # a template, say
            continue
        for node in nodes:
            for paragraph in PARAGRAPH.split(ast.get_docstring(node) or ""):
                if _is_prose(text := " ".join(paragraph.split())):
                    paragraphs[text] = None
    return [*paragraphs]


def package_licence(name: str) -> str:
    """Return name, version and licence, as the package states it."""
    found = _distribution(name)
    fields = ("License-Expression", "Classifier", "License")  # the last one may be a whole text
    lines = [line for field in fields for line in found.metadata.get_all(field) or []]
    licences = [line for line in lines if "::" not in line or line.startswith("License ::")]
    licence = licences[0].splitlines()[0] if licences else "licence not stated"
    return f"{name} {found.version}, {licence.removeprefix('License :: ')}"


def _distribution(name: str) -> metadata.Distribution:
    try:
        return metadata.distribution(name)
    except (metadata.PackageNotFoundError, ValueError) as error:  # ValueError: an empty name
        raise ValueError(
            f"got the package {name!r}, which is not installed, expected one that is: name numpy"
        ) from error


def _sources(found: metadata.Distribution) -> Iterator[bytes]:
    """Yield the contents of the package's modules, without its tests."""
    for file in sorted(found.files or (), key=str):
        path = file.locate()
        if file.suffix == ".py" and "tests" not in file.parts and path.is_file():
            yield path.read_bytes()


def _is_prose(text: str) -> bool:
    words = len(text.split())
    return (
        FEWEST_WORDS <= words <= MOST_WORDS
        and text[0].isupper() and text.endswith(".") and not LIST.search(text)
    )  # fmt: skip
