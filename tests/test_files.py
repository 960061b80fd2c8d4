"""Files: errors of the system become sentences with got, expected and remedy."""

from __future__ import annotations

from errno import EDQUOT, EISDIR, ENOSPC, EROFS

import pytest

from prag_core.files import sentence
from tests.fixtures.command_line import run


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(EROFS, "got a, expected b: do c"), "got a, expected b: do c"),
        (OSError(ENOSPC, "No space left on device"), "got no room to write a file, expected free"),
        (OSError(EDQUOT, "Disk quota exceeded", "x"), "got no room to write x, expected free"),
        (
            OSError(EISDIR, "Is a directory", b"x\xe9"),
            "got 'x\\udce9' (Is a directory), expected a",
        ),
        (ConnectionError("refused"), "refused"),
        (TimeoutError(110, "timed out"), "[Errno 110] timed out"),
        (ValueError("got a"), "got a"),
    ],
)
def test_a_sentence(error, words):
    assert sentence(error).startswith(words)


def test_a_path_that_the_system_refuses_is_named_with_a_remedy(tmp_path, capsys):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    for path in (tmp_path / ("x" * 300), tmp_path / "loop" / "store", tmp_path / "file" / "store"):
        assert run("parametrize", path / "x.txt") == 2
        assert run("store", "import", f"--path={path}", "--key=k", "--source=x") == 2
        for line in capsys.readouterr().err.splitlines():
            assert "got " in line and "expected" in line and "Errno" not in line
