"""README.md and the pages in docs/, which the tests read as a visitor does."""

import re

from conftest import ROOT

FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FILES = [file for file in FILES if not file.with_suffix(".ipynb").exists()]  # those are made of notebooks, see .ci/site
PAGES = {str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in FILES}


def blocks(text, language):
    """The code blocks of a language, "" for those without one."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def prose(text):
    """All but the code blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
