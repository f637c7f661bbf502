"""Draw with matplotlib and turn the figure into inline SVG: no scripts, nothing from outside, light and dark mode.

Text stays text, black becomes ``currentColor``, and the colours of ``PALETTE`` become the CSS variables ``--c0`` to
``--c7`` that the page defines for both modes. The same figure always gives the same SVG, because a page's storage key
is a hash of its content.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib import style
from matplotlib.figure import Figure

PALETTE = ("#3b82c4", "#d5731c", "#1a9a6c", "#c03a5b", "#8a5fc2", "#a07f10", "#12a5b8", "#c25fae")
_COLOURS = {"#000000": "currentColor", **{colour: f"var(--c{number})" for number, colour in enumerate(PALETTE)}}
_STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "heal", "font.size": 12, "text.parse_math": False,
    "axes.formatter.useoffset": False, "axes.facecolor": "none", "figure.facecolor": "none", "axes.spines.top": False,
    "legend.frameon": False, "grid.color": "black", "grid.alpha": 0.12, "axes.axisbelow": True,
}  # fmt: skip


@contextmanager
def new_figure(width: float, height: float) -> Iterator[Figure]:
    """Yield an empty figure of a size in SVG units; draw it and call ``to_svg`` within the block.

    Matplotlib's defaults hold inside, whatever the user's configuration file says.
    """
    with style.context(_STYLE, after_reset=True):
        yield Figure(figsize=(width / 72, height / 72), layout="constrained")


def to_svg(
    figure: Figure, name: str, title: str, description: str, labels: Mapping[str, Sequence[str]] | None = None
) -> Markup:
    """Turn a figure of ``new_figure`` into an ``<svg>`` element for an HTML page; all texts are escaped.

    Screen readers read title and description. The name, unique in the page, is the prefix of all ids. ``labels`` gives,
    by an artist's gid, the tooltips of its markers in their order.
    """
    for artist in figure.findobj():
        artist.set_clip_on(False)  # clip paths would need url(...) references
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(drawn.getvalue())  # noqa: S314 - matplotlib wrote it
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        attributes = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
        element.attrib = {key: _clean(key, value, name) for key, value in attributes.items()}
    for group, texts in (labels or {}).items():
        marks = root.findall(f".//*[@id='{name}-{group}']//use")
        for mark, text in zip(marks, texts, strict=True):
            ElementTree.SubElement(mark, "title").text = text
    heading, summary = (ElementTree.Element(tag, id=f"{name}-{tag}") for tag in ("title", "desc"))
    heading.text, summary.text = title, description
    # The metadata has a URL, and the style would hold for the whole page.
    root[:] = [heading, summary, *(child for child in root if child.tag == "g")]
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-labelledby": f"{name}-title {name}-desc"}
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # noqa: S704 - ElementTree escapes


def _clean(key: str, value: str, name: str) -> str:
    """An attribute's value with ids that are unique in the page, two decimals, CSS colours and the page's font."""
    if key == "id":
        return f"{name}-{value}"
    if key.endswith("href"):
        return f"#{name}-{value.removeprefix('#')}"
    if key == "style":
        value = re.sub(r"font-family: [^;]*(; )?", "", value)
        return re.sub("#[0-9a-f]{6}", lambda found: _COLOURS.get(found[0], found[0]), value)
    return re.sub(r"\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", " ".join(value.split()))
