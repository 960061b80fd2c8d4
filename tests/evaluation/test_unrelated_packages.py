"""Paragraphs of an installed package's documentation."""

from __future__ import annotations

from importlib import metadata

import pytest

from prag_core.evaluation import unrelated as subject
from prag_core.evaluation.unrelated import draw_texts

PROSE = " ".join(["Words", *["of"] * 40, "prose."])
MODULE = f'''"""Short.

{PROSE}

>>> {PROSE}
"""

def one():
    """{PROSE} Again.

    {PROSE[1:]}
    """
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of one documented module and a test, installed nowhere else."""
    info = tmp_path / "told-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: told\nVersion: 1.2\nLicense-Expression: MIT\n")
    (tmp_path / "told.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("def {{ name }}:")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "told.py").write_text(f'"""{PROSE} Of a test."""')
    files = ["told.py", "tests/told.py", "broken.py", "gone.py"]
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in files))
    monkeypatch.setattr(metadata, "distribution", lambda name: metadata.PathDistribution(info))


def test_running_text_alone_is_taken(package):
    assert subject.package_texts("told") == [PROSE, f"{PROSE} Again."]
    assert subject.package_licence("told") == "told 1.2, MIT"


def test_a_package_of_the_environment_has_enough():
    drawn = draw_texts("package:Jinja2", 20, 0)
    assert len({*drawn.texts}) == 20 and drawn.licence.startswith("Jinja2 3.")
    assert all(35 <= len(text.split()) <= 200 for text in drawn.texts)


def test_a_package_that_is_not_there_is_refused():
    for name in ("no-such-package", ""):
        with pytest.raises(ValueError, match="which is not installed"):
            draw_texts(f"package:{name}", 20, 0)
