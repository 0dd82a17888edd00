"""Equations of docs/, written in TeX as GitHub shows it, become MathML when the site is built: no script, no font.

```math begins an equation on lines of its own, and $`q(z|x)`$ is one within a sentence.
"""

import re
from typing import Any
from xml.etree.ElementTree import Element

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor


def block(source: str, language: str, css_class: str, options: dict, md: Markdown, **_: Any) -> str:
    """Called by pymdownx.superfences for ```math."""
    return f'<div style="overflow-x: auto; padding: 0.3em 0">{convert(source, display="block")}</div>'


class Inline(InlineProcessor):
    def handleMatch(self, match: re.Match, text: str) -> tuple[Element | str, int, int]:
        return self.md.htmlStash.store(convert(match[1])), *match.span()


class Equations(Extension):
    def extendMarkdown(self, md: Markdown) -> None:
        md.inlinePatterns.register(Inline(r"\$`([^`]+)`\$", md), "equation", 195)  # before `code`, which has 190


def makeExtension(**options: Any) -> Extension:
    return Equations(**options)
