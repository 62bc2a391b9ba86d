"""Gives pages with live figures their script and style, and repairs what the stock theme does to every page.

The repairs are the ones that no template reaches: Thebe (which would start a remote kernel, and whose
configuration the stock set-up emits twice, a SyntaxError on every page), and the name of the folds round
hidden cells, which says something else than the words on them.
"""

import re

from docutils import nodes
from sphinx.application import Sphinx

ELEMENT = "<steepest-figure"
MISNAMED_FOLD = '<summary aria-label="Toggle hidden content">'


def drop_thebe_nodes(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Remove the raw script nodes that sphinx-thebe appends (event `doctree-resolved`)."""
    for node in list(doctree.findall(nodes.raw)):
        if "thebe-config" in node.astext() or "kernelName" in node.astext():
            node.parent.remove(node)


def finish_page(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Add the figures' script and style where a page needs them, and repair it (event `html-page-context`)."""
    for kind in ("script_files", "css_files"):
        # In place: these are the builder's own lists, to which the calls below add.
        context[kind][:] = [asset for asset in context[kind] if not _is_thebe(asset)]
    body = context.get("body", "")
    context["body"] = body.replace(MISNAMED_FOLD, "<summary>")
    if ELEMENT in body:
        app.add_js_file("explore.js", loading_method="defer")
        app.add_css_file("explore.css")


def without_script(html: str, name: str) -> str:
    """The HTML without the script elements whose source ends in `name`, a query aside; a filter for templates.

    >>> without_script('<link/><script defer src="a/icons.js?v=1"></script><script src="b.js"></script>', "icons.js")
    '<link/><script src="b.js"></script>'
    """
    return re.sub(rf'<script[^>]*\ssrc="(?:[^"]*/)?{re.escape(name)}(?:\?[^"]*)?"[^>]*></script>', "", html)


def add_filters(app: Sphinx) -> None:
    """Give the templates their filter (event `builder-inited`)."""
    if app.builder.format == "html":
        app.builder.templates.environment.filters["without_script"] = without_script


def _is_thebe(asset) -> bool:
    body = getattr(asset, "attributes", {}).get("body") or ""
    return "thebe" in str(getattr(asset, "filename", asset)) or "THEBE" in body


def setup(app: Sphinx) -> dict:
    """Register the extension."""
    app.connect("builder-inited", add_filters)
    app.connect("doctree-resolved", drop_thebe_nodes, priority=900)
    # After the handlers that put assets there.
    app.connect("html-page-context", finish_page, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
