"""The worst of what a data check found, to look at: a PNG or an HTML page."""

import base64
import html
import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ..data import Listing
from ..figures import contact_sheet
from ..files import placed_whole
from ..preprocessing import open_image, to_rgb
from ..terminal import printable
from .findings import KINDS, DataReport, Finding

SUFFIXES = (".png", ".html")
MOST = {".png": 64, ".html": 400}
SIDE = 160  # pixels of the longer side

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Data check</title>
<style>
body {{ font: 14px system-ui, sans-serif; margin: 2em }}
section {{ display: flex; flex-wrap: wrap; gap: 1em }}
figure {{ margin: 0; width: 170px }}
img {{ max-width: 160px; max-height: 160px; display: block }}
figcaption {{ font-size: 12px; overflow-wrap: anywhere }}
</style>
<h1>{title}</h1>
{body}
</html>
"""


def check_sheet(path: str | os.PathLike[str]) -> str:
    """The suffix of a contact sheet's file; raises ValueError for another than `SUFFIXES`."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"sheet={os.fspath(path)!r} must end in {' or '.join(SUFFIXES)}")
    return suffix


def write_sheet(report: DataReport, splits: dict[str, Listing], path: str | os.PathLike[str]) -> None:
    """Writes the worst findings with their images, names and reasons; the kinds take turns.

    Args:
        report: what was found.
        splits: the listings that were checked.
        path: of a .png or an .html file, in which the images are contained.

    Raises:
        OSError: the disk refuses.
        ValueError: another suffix.
    """
    suffix = check_sheet(path)
    worst = report.worst(MOST[suffix])
    of_images = sum(finding.index is not None for finding in report.findings)
    title = f"{len(worst)} of {of_images} findings" if worst else "Nothing was found"
    if suffix == ".png":
        content = contact_sheet([(_read(splits, f), _lines(f)) for f in worst], title)
    else:
        content = _PAGE.format(title=title, body="\n".join(_sections(splits, worst))).encode()
    with placed_whole(path) as aside:
        aside.write_bytes(content)


def _lines(finding: Finding) -> list[str]:
    other = [f"= {Path(finding.other).name}"] if finding.other else []
    return [finding.kind, Path(finding.image).name, f"{finding.split}, {finding.label}", *other]


def _sections(splits: dict[str, Listing], worst: tuple[Finding, ...]) -> Iterator[str]:
    for kind, words in KINDS.items():
        if not (members := [finding for finding in worst if finding.kind == kind]):
            continue
        yield f"<h2>{html.escape(words.capitalize())}</h2>\n<section>"
        for finding in members:
            pixels = _read(splits, finding)
            shown = "" if pixels is None else f'<img alt="" src="data:image/jpeg;base64,{_jpeg(pixels)}">'
            lines = (finding.image, f"{finding.split}, {finding.label}", finding.reason)
            below = "<br>".join(html.escape(printable(line)) for line in lines)
            yield f"<figure>{shown}<figcaption>{below}</figcaption></figure>"
        yield "</section>"


def _read(splits: dict[str, Listing], finding: Finding) -> np.ndarray | None:
    """An image as uint8 (height, width, 3), its longer side at most `SIDE`; None where it cannot be read."""
    assert finding.index is not None
    try:
        with open_image(splits[finding.split].read(finding.index)) as image:
            image.draft("RGB", (SIDE, SIDE))
            rgb = to_rgb(image)
    except Exception:  # Pillow's decoders raise anything at all on broken data
        return None
    rgb.thumbnail((SIDE, SIDE))
    return np.asarray(rgb)


def _jpeg(pixels: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=85)
    return base64.b64encode(stream.getvalue()).decode()
