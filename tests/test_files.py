"""Files: errors of the system become sentences with got, expected and remedy."""

from __future__ import annotations

import gzip
import json
from errno import EDQUOT, EISDIR, ENOLCK, ENOSPC, EROFS

import pytest

from prag_core.files import locked, replacing, require_no_set, sentence, write_json, write_lines
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


def test_a_file_system_without_locks_keeps_nobody_out(tmp_path, monkeypatch):
    def acquire(lock):
        raise OSError(error, "No locks available")

    monkeypatch.setattr("prag_core.files.FileLock.acquire", acquire)
    error = ENOLCK
    with locked(tmp_path):
        done = True
    assert done
    error = EROFS
    with pytest.raises(OSError, match="No locks available"), locked(tmp_path):
        done = False
    assert done


def test_a_path_that_the_system_refuses_is_named_with_a_remedy(tmp_path, capsys):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    for path in (tmp_path / ("x" * 300), tmp_path / "loop" / "store", tmp_path / "file" / "store"):
        assert run("parametrize", path / "x.txt") == 2
        assert run("store", "import", f"--path={path}", "--key=k", "--source=x") == 2
        for line in capsys.readouterr().err.splitlines():
            assert "got " in line and "expected" in line and "Errno" not in line


def test_what_is_cut_short_leaves_nothing(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(OSError, match="full"), replacing(path) as temporary:
        temporary.write_text("half")
        raise OSError(ENOSPC, "full")
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    assert json.loads(path.read_text()) == {"a": 1}


def test_a_foreign_question_set_is_not_written_over(tmp_path):
    require_no_set(tmp_path, "report.json")
    write_lines(tmp_path / "questions.jsonl.gz", [{"id": "é"}])
    with gzip.open(tmp_path / "questions.jsonl.gz", "rt", encoding="utf-8") as file:
        assert file.read() == '{"id": "é"}\n'
    for made in ("report.json", ""):
        with pytest.raises(ValueError, match=r"which holds questions.jsonl.gz of another question"):
            require_no_set(tmp_path, made)
    (tmp_path / "report.json").touch()
    require_no_set(tmp_path, "report.json")
