"""The formats of images that exports decode, told by a file's first bytes, and how large an image may be.

TensorFlow decodes others from version to version: 2.21 WebP and JPEG XL, which TF Serving 2.19 refuses. An export does
the same in both, so its graph, `keras-resnext serve` and the clients keep to this list. No framework is needed here.
"""

MAX_PIXELS = 178_956_970  # Pillow's own bound for what may be a decompression bomb
PNG = b"\x89PNG\r\n\x1a\n"
# A PNG's first chunk says how large it is. libpng finds that chunk behind others too, where nobody would look for it.
MARKS: dict[str, tuple[bytes, ...]] = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (PNG + b"\0\0\0\rIHDR",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "BMP": (b"BM",),
}
FORMATS = "JPEG, PNG, GIF or BMP"
UNLISTED = f"not a {FORMATS}"
_OTHERS = (  # where in a file which bytes stand, and what it probably is
    (8, (b"WEBP",), "WebP"),
    (0, (b"II*\0", b"MM\0*"), "TIFF"),
    (4, (b"ftypavif", b"ftypavis"), "AVIF"),
    (4, (b"ftyphei", b"ftyphev", b"ftypmif1"), "HEIC"),
    (0, (b"\xff\x0a", b"\0\0\0\x0cJXL "), "JPEG XL"),
    (0, (b"<svg", b"<?xml"), "SVG"),
    (0, (b"%PDF",), "PDF"),
    (0, (PNG,), "a PNG that does not begin with its size"),
)


def is_listed(data: bytes) -> bool:
    """Whether the first bytes are those of a format that exports decode; GIFs by their first frame."""
    return data.startswith(tuple(mark for marks in MARKS.values() for mark in marks))


def describe_unlisted(data: bytes) -> str:
    """What is wrong with data that are not listed, such as "not a JPEG, PNG, GIF or BMP (it looks like WebP)"."""
    for start, marks, name in _OTHERS:
        if data[start : start + 16].startswith(marks):
            return f"{UNLISTED} (it looks like {name})"
    return f"{UNLISTED} ({f'it begins with {bytes(data[:12])!r}' if data else 'it is empty'})"
