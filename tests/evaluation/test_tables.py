import io
import re

from rich.console import Console

from prag_core.evaluation.tables import Table
from tests.fixtures.comparisons import HOSTILE

TABLE = Table(
    f"{HOSTILE}: [/nothing]", ("name", "F1"), ((("a [b]", "1.0 (0.5 to 2.0)"),), (("c", "-"),)), "%"
)


def test_foreign_names_are_text_and_intervals_stand_below():
    console = Console(file=io.StringIO(), width=80)
    console.print(TABLE.rich())
    lines = [line.strip() for line in console.file.getvalue().splitlines()]
    text = "\n".join(lines)
    assert "[red]" in text and "[/nothing]" in text
    assert re.search(r"^a \[b\] +1\.0\n\(0\.5 to 2\.0\)$", text, re.MULTILINE)


def test_markdown_has_every_row():
    assert TABLE.markdown().splitlines()[2:] == [
        "| name | F1 |", "| --- | --- |", "| a [b] | 1.0 (0.5 to 2.0) |", "| c | - |", "", "%",
    ]  # fmt: skip
