"""The tables of the Markdown files are those of the results files beside the weights."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.fixtures.paths import ROOT


def test_tables_are_rendered_from_results():
    command = [sys.executable, ROOT / ".ci" / "tables", "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}run `make tables`"


def test_no_table_of_results_is_typed():
    """Every table with an interval in it stands in a rendered block."""
    for name in ("README.md", "checkpoints/smollm2-135m-ridge/card.md"):
        text = (ROOT / name).read_text("utf-8")
        typed = re.sub(r"<!-- table: .*?<!-- end -->", "", text, flags=re.DOTALL)
        assert not re.search(r"^\|.*\d \(\d.* to ", typed, flags=re.MULTILINE), name
