"""Text files are read as people write them."""

import pytest

from keras_resnext.files import read_lines, read_text
from keras_resnext.labels import read_labels

TEXT = "cat\nKäse\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(tmp_path, encoding, end):
    (tmp_path / "t.txt").write_bytes(TEXT.replace("\n", end).encode(encoding))
    assert read_text(tmp_path / "t.txt") == TEXT


def test_windows_1252_is_read_and_said(tmp_path):
    (tmp_path / "t.txt").write_bytes(TEXT.encode("cp1252"))
    with pytest.warns(UserWarning, match=r"t\.txt is not UTF-8; it was read as Windows-1252"):
        assert read_text(tmp_path / "t.txt") == TEXT


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\0\1\2\3" * 10, b"\xff\xfe\0\xd8"])
def test_what_is_not_text(tmp_path, data):
    (tmp_path / "t.txt").write_bytes(data)
    with pytest.raises(ValueError, match=r"t\.txt is not a text file"):
        read_text(tmp_path / "t.txt")


def test_blank_lines_and_spaces_do_not_count(tmp_path):
    (tmp_path / "t.txt").write_bytes(b"\xef\xbb\xbf cat \r\n\r\ndog\r\n\r\n")
    assert read_lines(tmp_path / "t.txt") == ["cat", "dog"]
    assert read_labels(tmp_path / "t.txt") == ["cat", "dog"]
