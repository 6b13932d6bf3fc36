r"""A hook of mkdocs: formulas in LaTeX become MathML while the site is built.

Browsers show MathML by themselves: a page loads no script for it, and its font lies in `fonts`. One
writes `$x_i$` in a line and `$$ ... $$`, on lines of their own, for a formula between paragraphs;
`pymdownx.arithmatex` finds them. What the converter does not know makes a strict build fail.
"""

import html
import logging
import re

from latex2mathml.converter import convert

LOG = logging.getLogger("mkdocs.formulas")  # its warnings make a strict build fail
# Bars of norms and absolute values: as high as a letter, unless written with \left and \right.
BARS = re.compile("<mo>(&#x02016;|&#x0007C;)</mo>")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content, page, config, files):
    """Replace what arithmatex has marked."""

    def replace(match):
        tag, bracket, latex = match.groups()
        latex = html.unescape(latex).strip()
        display = "block" if bracket == "[" else "inline"
        try:
            mathml = convert(latex, display=display)
        except Exception as error:
            LOG.warning("%s: no formula: %s (%r)", page.file.src_uri, latex, error)
            return match.group()
        if "\\" in mathml:
            LOG.warning("%s: a command that is not known in %s", page.file.src_uri, latex)
        mathml = BARS.sub(r'<mo stretchy="false">\1</mo>', mathml)
        return f'<{tag} class="formula">{mathml}</{tag}>'

    return FORMULA.sub(replace, content)
