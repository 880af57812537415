"""Makes matplotlib's SVG fit to stand inline on a page: no ids that collide, no fixed colours, a name for listeners."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET  # parses only what matplotlib has just written
from collections.abc import Mapping

_NAMESPACE = "http://www.w3.org/2000/svg"
_HREF = "{http://www.w3.org/1999/xlink}href"
_URL = re.compile(r"url\(#([^)]+)\)")
_DROPPED = {"metadata", "style"}  # an inline <style> would apply to the whole page


def embed(raw: str, *, prefix: str, title: str, colours: Mapping[str, str], description: str = "") -> str:
    """Turns a drawing into an inline SVG element.

    Args:
        raw: what matplotlib wrote.
        prefix: stands before every id; unique on the page.
        title: the name of the picture for screen readers; empty for a decoration, which they skip.
        colours: what each placeholder colour (lower-case ``#rrggbb``) becomes, for example ``currentColor``.
        description: what the picture shows, for screen readers.

    Returns:
        One ``<svg>`` element without a fixed font, to be put into HTML or saved as a file.
    """
    root = ET.fromstring(raw)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in _DROPPED:
                parent.remove(child)
    used = {name for element in root.iter() for name in _references(element)}
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        if element.attrib.get("id") not in used:
            element.attrib.pop("id", None)
        element.attrib = {
            key.replace(_HREF, "href"): _rewrite(key, text, prefix, colours) for key, text in element.attrib.items()
        }
    _name(root, prefix, title, description)
    return ET.tostring(root, encoding="unicode")


def _references(element: ET.Element) -> list[str]:
    found = [name for text in element.attrib.values() for name in _URL.findall(text)]
    return [*found, element.attrib[_HREF][1:]] if _HREF in element.attrib else found


def _rewrite(key: str, text: str, prefix: str, colours: Mapping[str, str]) -> str:
    if key == "id":
        return f"{prefix}-{text}"
    if key == _HREF:
        return f"#{prefix}-{text[1:]}"
    if key == "style":
        text = "; ".join(_declaration(part, colours) for part in text.split(";") if "font-family" not in part)
    return _URL.sub(rf"url(#{prefix}-\1)", text)


def _declaration(part: str, colours: Mapping[str, str]) -> str:
    name, _, value = (piece.strip() for piece in part.partition(":"))
    if name == "font":  # the shorthand names a family; the page's own font is wanted
        size = re.search(r"[\d.]+px", value)
        weight = re.search(r"\b(bold|[1-9]00)\b", value)
        return f"font-size: {size.group() if size else '12px'}; font-weight: {weight.group() if weight else 'normal'}"
    return f"{name}: {colours.get(value.lower(), value)}" if name else ""


def _name(root: ET.Element, prefix: str, title: str, description: str) -> None:
    width, height = root.attrib["viewBox"].split()[2:]
    box = root.attrib["viewBox"]
    root.attrib = {"xmlns": _NAMESPACE, "viewBox": box, "width": width, "height": height, "stroke-linejoin": "round"}
    if not title:
        root.set("aria-hidden", "true")
        return
    root.attrib |= {"role": "img", "aria-labelledby": f"{prefix}-title"}
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        if text:
            element = ET.Element(tag, {"id": f"{prefix}-{tag}"})
            element.text = text
            root.insert(place, element)
    if description:
        root.set("aria-describedby", f"{prefix}-desc")
