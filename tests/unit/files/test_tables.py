"""Text tables: encodings, delimiters and refused content."""

import csv
import io

import pytest

from sppfeat.config.values import EncodedPath
from sppfeat.errors import ConfigError
from sppfeat.files.tables import TableFile

ROWS = [["path", "label"], ["b/1.jpg", "Käfer"], ["2.jpg", "a, b; c"]]


def text_of(rows=ROWS, delimiter=",", end="\r\n"):
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter, lineterminator=end).writerows(rows)
    return file.getvalue()


def rows_of(tmp_path, content, *, name="t.csv", encoding=None):
    path = tmp_path / name
    path.write_bytes(content)
    table = TableFile(bytes(path), encoding=encoding)
    with table.open_text() as file:
        return [*table.rows(file)]


def refused(*arguments, **options):
    with pytest.raises(ConfigError) as caught:
        rows_of(*arguments, **options)
    return str(caught.value)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.encode(),
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.encode("utf-16"),
        lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
        lambda text: text.encode("utf-32"),
    ],
    ids=["utf-8", "with a mark", "utf-16", "utf-16-be", "utf-32"],
)
def test_byte_order_marks_and_delimiters_are_recognized(tmp_path, delimiter, name, encode):
    content = encode(text_of(delimiter=delimiter))
    assert [row for _, row in rows_of(tmp_path, content, name=name)] == ROWS


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "mac-roman", "utf-16-le", "utf-8"])
def test_a_given_encoding_is_used(tmp_path, encoding):
    content = text_of().encode(encoding)
    assert [row for _, row in rows_of(tmp_path, content, encoding=encoding)] == ROWS


def test_a_byte_order_mark_overrides_the_given_encoding(tmp_path):
    for marked in ("utf-8-sig", "utf-16"):
        content = text_of().encode(marked)
        assert [row for _, row in rows_of(tmp_path, content, encoding="cp1252")] == ROWS


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("\n\npath;x\n1;2\n", [(3, ["path", "x"]), (4, ["1", "2"])]),
        ("sep=;\r\npath;x\r\n1;2\r\n", [(2, ["path", "x"]), (3, ["1", "2"])]),
        ("sep=|\npath|x,y\n", [(2, ["path", "x,y"])]),
        ('"path";"x"\n1;2\n', [(1, ["path", "x"]), (2, ["1", "2"])]),
        ("path,a;b,c\n1,2,3\n", [(1, ["path", "a;b", "c"]), (2, ["1", "2", "3"])]),
        ('path,"a;b;c"\n1,2\n', [(1, ["path", "a;b;c"]), (2, ["1", "2"])]),
        ("row,label;a;b\n1,2\n", [(1, ["row", "label;a;b"]), (2, ["1", "2"])]),
        ("path\n1;2\n", [(1, ["path"]), (2, ["1;2"])]),
        ("path;x\n1;2\n;\n\n3;4\n;\n", [(1, ["path", "x"]), (2, ["1", "2"]), (5, ["3", "4"])]),
        ("path;x0\n1;1,5\n", [(1, ["path", "x0"]), (2, ["1", "1,5"])]),
    ],
)
def test_rows_have_their_line_numbers(tmp_path, text, rows):
    assert rows_of(tmp_path, text.encode()) == rows


def test_invalid_bytes_are_refused_with_line_byte_and_option(tmp_path):
    message = refused(tmp_path, text_of().encode("cp1252"))
    assert "t.csv', line 2: the byte 0xe4 in b'K\\xe4fer' is not UTF-8" in message
    assert "--encoding" in message
    assert "cp1252" in message
    assert "line 1: the byte 0xfc" in refused(tmp_path, b"path;f\xfcr\n")
    assert "line 2: the byte 0x81" in refused(tmp_path, b"path,label\n1,\x81\n", encoding="cp1252")


def test_image_names_may_be_any_bytes(tmp_path):
    content = b"label;File_Name\ncat;\xff.jpg\n"
    assert rows_of(tmp_path, content)[1] == (2, ["cat", "\udcff.jpg"])


def test_any_cell_may_be_any_bytes_if_utf8_is_given(tmp_path):
    assert rows_of(tmp_path, b"path,label\na,\xff\n", encoding="utf-8")[1] == (2, ["a", "\udcff"])


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"PK\3\4", "Excel workbook (.xlsx)"),
        (b"\xd0\xcf\x11\xe0", "(.xls)"),
        (b"PAR1", "Parquet"),
        (b"\x1f\x8b", "gzip"),
    ],
)
def test_binary_files_are_recognized(tmp_path, content, kind):
    message = refused(tmp_path, content + bytes(20))
    assert kind in message
    assert "saved as 'CSV UTF-8'" in message


def test_utf16_without_a_byte_order_mark_is_refused(tmp_path):
    content = text_of().encode("utf-16-le")
    message = refused(tmp_path, content)
    assert "line 1: found a zero byte" in message
    assert "--encoding utf-16-le" in message


@pytest.mark.parametrize("encoding", ["klingon", "zlib", "hex", "a\0b"])
def test_unknown_encodings(encoding):
    with pytest.raises(ConfigError, match=r"encoding is .*; allowed: utf-8, utf-16, cp1252"):
        EncodedPath("t.csv", encoding)
