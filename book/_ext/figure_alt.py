"""Give a figure glued from another page an alternative text.

MyST-NB can place a figure of a notebook on another page, but only as a bare image. Put such a figure and one
paragraph inside a container with the class ``glued-figure``; the paragraph is shown as the caption and is read out
as the image's description. On notebook pages, an output image without a description is named after its page.
"""

from docutils import nodes


def _describe(app, doctree, docname):
    for box in doctree.findall(nodes.container):
        if "glued-figure" not in box.get("classes", []):
            continue
        caption = next((p for p in box.findall(nodes.paragraph)), None)
        for image in box.findall(nodes.image):
            if caption is not None and not image.get("alt"):
                image["alt"] = caption.astext()
    title = next((t.astext() for t in doctree.findall(nodes.title)), docname)
    for count, image in enumerate(doctree.findall(nodes.image), start=1):
        if not image.get("alt"):
            image["alt"] = f"Figure {count} of the page “{title}”"


def setup(app):
    app.connect("doctree-resolved", _describe)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
