"""A hook of mkdocs: links of tutorials, right in the repository, become links of the site.

A script that would fetch mermaid from elsewhere, for diagrams that no tutorial has, is left out.
"""

import logging
import posixpath
import re

MERMAID = re.compile(
    r"<script(?:(?!</script>).)*mermaid.esm(?:(?!</script>).)*</script>", re.DOTALL
)
LOG = logging.getLogger("mkdocs.tutorial_links")  # its warnings make a strict build fail


def on_page_content(html, page, config, files):
    """Replace links such as ../docs/engine.md#methods and 2_choosing_a_verifier.ipynb."""
    source = page.file.src_uri
    if not source.endswith(".ipynb"):
        return html

    def replace(match):
        target, anchor = match.groups("")
        place = posixpath.normpath(posixpath.join("tutorials", target)).removeprefix("docs/")
        found = files.get_file_from_path(place)
        if found is None:
            LOG.warning("%s has a link to %s, which is not on the site", source, target)
            return match.group()
        return f'href="{found.url_relative_to(page.file)}{anchor}"'

    html = MERMAID.sub("", html)
    return re.sub(r'href="([^":#]+\.(?:md|ipynb))(#[^"]*)?"', replace, html)
