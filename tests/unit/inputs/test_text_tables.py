"""Tables of paths as inputs: which images, with which classes and ids; and what becomes of the ids."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from conftest import write_image
from extraction_runs import extract
from hypothesis import given
from hypothesis import strategies as st

from sppfeat.errors import ConfigError
from sppfeat.inputs import list_images
from sppfeat.store.reader import FeatureFile

SUFFIXES = ("csv", "tsv", "jsonl", "ndjson")


def write_table(path, rows, names=None):
    """Write rows of texts with a header, or as JSON objects, by the suffix; return the path."""
    names = names or ("path", "label", "id")
    path = Path(path)
    if path.suffix in (".csv", ".tsv"):
        separator = "," if path.suffix == ".csv" else "\t"
        text = "".join(separator.join(row) + "\n" for row in [names, *rows])
    else:
        text = "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return path


def found(*inputs, **options):
    """Return absolute path, class and id of each image."""
    listing = list_images([os.fspath(path) for path in inputs], **options)
    names = (*listing.classes, b"")
    ids = listing.ids or [b""] * len(listing.paths)
    return [
        tuple(map(os.fsdecode, (os.path.join(listing.root, path), names[label], image_id)))
        for path, label, image_id in zip(listing.paths, listing.labels.tolist(), ids, strict=True)
    ]


def refused(path, said, *more):
    with pytest.raises(ConfigError, match=re.escape(said)) as error:
        list_images([os.fspath(path), *map(os.fspath, more)])
    assert repr(str(path)) in str(error.value)


# --- what a table says ----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_images_are_in_the_order_of_the_rows(tmp_path, suffix):
    rows = [("b/10.jpg", "dog", "x"), ("/far/away/2.jpg", "cat10", "y"), ("3.jpg", "cat9", "z")]
    table = write_table(tmp_path / f"m.{suffix}", rows)
    assert found(table) == [
        (f"{tmp_path}/b/10.jpg", "dog", "x"),
        ("/far/away/2.jpg", "cat10", "y"),
        (f"{tmp_path}/3.jpg", "cat9", "z"),
    ]
    listing = list_images([str(table)])
    assert listing.classes == (b"cat9", b"cat10", b"dog")
    assert listing.n_unlabeled == 0


@pytest.mark.parametrize(
    "name", ["path", "image", "image_path", "file_name", "filename", "File", " FilePath ", "URL"]
)
def test_names_of_columns_count_without_case(tmp_path, name):
    table = write_table(
        tmp_path / "m.csv", [("x", "1.jpg", "cat", "7")], ("split", name, "Class", "Image_ID")
    )
    assert found(table) == [(f"{tmp_path}/1.jpg", "cat", "7")]


def test_names_of_classes_go_before_their_numbers(tmp_path):
    table = write_table(tmp_path / "m.csv", [("1.jpg", "3", "cat")], ("path", "label", "class_name"))
    assert list_images([str(table)]).classes == (b"cat",)


def test_without_classes_folders_tell_them(tmp_path):
    table = write_table(tmp_path / "m.csv", [("cat/1.jpg",), ("dog/2.jpg",)], ("path",))
    assert list_images([str(table)]).classes == (b"cat", b"dog")
    assert list_images([str(table)]).ids is None
    labeled = write_table(tmp_path / "l.csv", [("cat/1.jpg", "a", ""), ("dog/2.jpg", "b", "")])
    assert list_images([str(labeled)]).classes == (b"a", b"b")
    assert list_images([str(labeled)], labels="folder").classes == (b"cat", b"dog")
    assert list_images([str(labeled)], labels="none").classes == ()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_empty_cells_are_no_class_and_no_id(tmp_path, suffix):
    rows = [("1.jpg", "", ""), ("2.jpg", "cat", "a"), ("3.jpg", "", "")]
    listing = list_images([str(write_table(tmp_path / f"m.{suffix}", rows))])
    assert listing.labels.tolist() == [-1, 0, -1]
    assert listing.n_unlabeled == 2
    assert list(listing.ids) == [b"", b"a", b""]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_blanks_around_cells_are_not_part_of_them(tmp_path, suffix):
    (tmp_path / " kept.jpg").write_bytes(b"")
    rows = [
        ("1.jpg", "ant ", " x"),
        (" 2.jpg", "ant", "y "),
        ("3.jpg ", "\u00a0bass\u3000", ""),
        (" kept.jpg", "bass", " "),
    ]
    assert found(write_table(tmp_path / f"m.{suffix}", rows)) == [
        (str(tmp_path / "1.jpg"), "ant", "x"),
        (str(tmp_path / "2.jpg"), "ant", "y"),
        (str(tmp_path / "3.jpg"), "bass", ""),
        (str(tmp_path / " kept.jpg"), "bass", ""),
    ]


def test_blanks_before_a_url_are_not_part_of_it(tmp_path):
    pytest.importorskip("fsspec")
    rows = [(" https://host/1.jpg", "a", ""), ("https://host/2.jpg ", "b", "")]
    listing = list_images([str(write_table(tmp_path / "m.csv", rows))])
    assert (listing.root, list(listing.paths)) == (b"https://host", [b"1.jpg", b"2.jpg"])


@pytest.mark.parametrize("empty", [",,", " , ,", '"","",""', "\t,,", ","])
def test_rows_of_blanks_are_passed_over(tmp_path, empty):
    table = tmp_path / "m.csv"
    table.write_text(f"path,label,id\n1.jpg,ant,x\n{empty}\n2.jpg,bass,y\n{empty}\n{empty}\n")
    assert [label for _, label, _ in found(table)] == ["ant", "bass"]


@pytest.mark.parametrize("path", ["", " "])
def test_a_row_with_a_class_and_no_path_is_an_error(tmp_path, path):
    refused(write_table(tmp_path / "m.csv", [("1.jpg", "ant", ""), (path, "ant", "")]), "line 3: found ")


def test_values_of_json(tmp_path):
    lines = [
        '{"path": "1.jpg", "label": 10, "id": null}',
        '{"id": 7, "path": "2.jpg", "label": 9.5, "boxes": [[]]}',
        "",
    ]
    (tmp_path / "m.jsonl").write_text(
        "\n".join([*lines, '{"path": "3.jpg"}', '{"path": "4.jpg", "label": true}'])
    )
    expected = [("10", ""), ("9.5", "7"), ("", ""), ("true", "")]
    assert [of[1:] for of in found(tmp_path / "m.jsonl")] == expected


def test_names_need_not_be_utf8_and_may_hold_anything_else(tmp_path):
    (tmp_path / os.fsdecode(b"\xff.jpg")).touch()
    (tmp_path / "m.csv").write_bytes(b'path,label\n\xff.jpg,\xc3\xbe\n"a,""b\n.jpg","c\r\nd"\n')
    listing = list_images([str(tmp_path / "m.csv")])
    assert list(listing.paths) == [b"\xff.jpg", b'a,"b\n.jpg']
    assert listing.classes == (b"c\r\nd", b"\xc3\xbe")
    (tmp_path / "m.jsonl").write_text('{"path": "\\udcff.jpg", "label": "\\u00e9"}')
    assert list(list_images([str(tmp_path / "m.jsonl")]).paths) == [b"\xff.jpg"]


@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        (b"\xef\xbb\xbfpath\r\n1.jpg\r\n\r\n2.jpg\r\n", "csv"),
        (b"\n\npath\n1.jpg\n\n2.jpg", "csv"),
        (b"path\tx\n1.jpg\t,\n2.jpg\t\n", "tsv"),
        (b'\xef\xbb\xbf{"path": "1.jpg"}\r\n\r\n{"file": "2.jpg"}', "jsonl"),
    ],
)
def test_ends_of_lines_and_marks_in_front(tmp_path, content, suffix):
    (tmp_path / f"m.{suffix}").write_bytes(content)
    assert list(list_images([str(tmp_path / f"m.{suffix}")]).paths) == [b"1.jpg", b"2.jpg"]


FOLDERS = st.sampled_from(["", "a/", "./", "../", "a/../", "/", "//", "/a/", "link/", "link/../", "a//b/"])


@given(
    st.lists(st.tuples(FOLDERS, FOLDERS, st.sampled_from(["x.jpg", "..", ".", "a/"])), min_size=1, max_size=9)
)
def test_paths_are_what_the_file_system_says(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("here") / "t"
    (folder / "far" / "a").mkdir(parents=True)
    (folder / "link").symlink_to("far/a")
    paths = ["".join(of) for of in parts]
    table = write_table(folder / "m.csv", [(path,) for path in paths], ("path",))
    listing = list_images([str(table)], labels="none")
    assert {os.path.realpath(os.path.join(listing.root, path)) for path in listing.paths} == {
        os.path.realpath(os.fsencode(os.path.join(folder, path))) for path in paths
    }


def test_a_table_beside_other_inputs(tmp_path):
    for name in ("all/1.jpg", "all/2.jpg", "more/3.jpg", "4.jpg"):
        write_image(tmp_path / name, 9, 9, seed=1)
    table = write_table(tmp_path / "all" / "m.csv", [("1.jpg", "cat", "a"), ("2.jpg", "dog", "b")])
    assert found(tmp_path / "more", table, tmp_path / "4.jpg", tmp_path / "all") == [
        (f"{tmp_path}/more/3.jpg", "", ""),
        (f"{tmp_path}/all/1.jpg", "cat", "a"),
        (f"{tmp_path}/all/2.jpg", "dog", "b"),
        (f"{tmp_path}/4.jpg", "", ""),
    ]
    assert found(tmp_path / "all", table) == found(table)
    (tmp_path / "list").write_text(f"{table}\n{tmp_path}/4.jpg\n")
    assert [image_id for *_, image_id in found(f"@{tmp_path}/list")] == ["a", "b", ""]


def test_urls_are_objects_of_a_service(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    urls = [f"memory://top/{name}" for name in ("a/1.jpg", "2", "a/1.jpg", "b/3.jpg", "gone")]
    fsspec.filesystem("memory").pipe({url.removeprefix("memory:/"): url.encode() for url in urls[:4]})
    rows = [(url, "cat", str(i // 2 * 2)) for i, url in zip([0, 2, 0, 4, 6], urls, strict=True)]
    listing = list_images([str(write_table(tmp_path / "m.csv", rows))])
    assert listing.root == b"memory://top"
    assert list(listing.paths) == [b"a/1.jpg", b"2", b"b/3.jpg", b"gone"]
    assert list(listing.ids) == [b"0", b"2", b"4", b"6"]
    assert listing.n_repeated == 1
    with listing.storage.fetch(np.arange(4), tmp_path) as places:
        assert [Path(os.fsdecode(of.path)).read_text() for of in places[:3]] == [urls[0], urls[1], urls[3]]
        assert "no such" in places[3]


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (["memory://a/1.jpg", "2.jpg"], "2.jpg', and URLs in other rows; allowed: only"),
        (["2.jpg", "memory://a/1.jpg"], "line 2: found"),
        (["memory://a/1.jpg", "https://host/1.jpg"], "belong to several services, 'memory://a', 'https://host'"),
        (["https://host/1.jpg", "https://host/2.jpg?key=1"], "line 3: the URL 'https://host/2.jpg?...' has a query"),
    ],
)  # fmt: skip
def test_urls_that_are_refused(tmp_path, paths, said):
    pytest.importorskip("fsspec")
    refused(write_table(tmp_path / "m.csv", [(path,) for path in paths], ("url",)), said)


# --- images that are there twice ------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_that_say_the_same_are_one_image(tmp_path, suffix):
    rows = [
        ("1.jpg", "", "x"),
        ("2.jpg", "dog", ""),
        ("./1.jpg", "cat", ""),
        (f"{tmp_path}/1.jpg", "cat", "x"),
    ]
    table = write_table(tmp_path / f"m.{suffix}", rows)
    assert found(table) == [(f"{tmp_path}/1.jpg", "cat", "x"), (f"{tmp_path}/2.jpg", "dog", "")]
    assert list_images([str(table)]).n_repeated == 2


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("other", [("./1.jpg", "dog", "x"), ("1.jpg", "cat", "y")])
def test_rows_that_say_different_things_of_an_image(tmp_path, suffix, other):
    table = write_table(tmp_path / f"m.{suffix}", [("1.jpg", "cat", "x"), ("2.jpg", "dog", "y"), other])
    lines = "lines 2 and 4" if suffix in ("csv", "tsv") else "lines 1 and 3"
    refused(table, f"{lines}: '{tmp_path}/1.jpg' is ")


def test_tables_that_say_different_things_of_an_image(tmp_path):
    one = write_table(tmp_path / "1.csv", [("1.jpg", "cat", "x"), ("2.jpg", "dog", "")])
    same = write_table(tmp_path / "2.csv", [("2.jpg", "dog", "y"), ("1.jpg", "", "")])
    assert found(one, same) == [(f"{tmp_path}/1.jpg", "cat", "x"), (f"{tmp_path}/2.jpg", "dog", "y")]
    for other in [("1.jpg", "dog", "x"), ("1.jpg", "cat", "z")]:
        table = write_table(tmp_path / "3.csv", [other])
        with pytest.raises(ConfigError, match=r"'1.jpg' both .* '.*' and '.*'; allowed: one"):
            list_images([str(one), str(table)])


@pytest.mark.parametrize(
    "names", [("path", "x0", "y0", "x1", "y1"), ("image", "xmin", "ymin", "XMAX", "ymax")]
)
def test_a_file_of_boxes_is_no_table_of_images(tmp_path, names):
    rows = [("1.jpg", "0", "0", "5", "5"), ("1.jpg", "1", "1", "5", "5")]
    refused(write_table(tmp_path / "boxes.csv", rows, names), "lines 2 and 3: both name")
    refused(write_table(tmp_path / "boxes.jsonl", rows, names), "Give a box file to --boxes")
    assert len(found(write_table(tmp_path / "boxes.csv", rows[:1], names))) == 1


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "content", "said"),
    [
        ("csv", b"", "line 1: the header: no column holds the paths: found nothing; allowed: exactly one of path|"),
        ("csv", b"a.jpg,cat\nb.jpg,dog\n", "no column holds the paths: found 'a.jpg', 'cat'; allowed: exactly"),
        ("csv", b"path,url,label\n", "several columns could hold the paths: found 'path', 'url', 'label'"),
        ("csv", b"path,PATH\n", "found the column 'path' twice"),
        ("csv", b"path,label\na.jpg,K\xe4fer\n", "line 2: the byte 0xe4 in b'K\\xe4fer' is not UTF-8; allowed"),
        ("csv", b"path\na.jpg\n\xe4.jpg\n", "line 3: the byte 0xe4 in b'\\xe4.jpg' is not UTF-8, and no such"),
        ("csv", b"\npath,label\na.jpg,cat\nb.jpg\n", "line 4: found 1 field, 'b.jpg'; allowed: 2"),
        ("csv", b"path,label\na.jpg,cat\n,dog\n", "line 3: found ''; allowed: the path of an image"),
        ("csv", b'path,label\n"a"b.jpg,cat\n', "line 2: cannot be split into fields"),
        ("csv", "path\na.jpg\n".encode("utf-16-le"), "line 1: found a zero byte"),
        ("csv", b"\xff\xfepath,labels", "line 1: the byte 0x73"),
        ("jsonl", b"", "is empty; allowed: one JSON object per line"),
        ("jsonl", b'{"path": "a.jpg"}\n{"path": "b.jpg",}\n', "line 2, column"),
        ("jsonl", b'{"path": "a.jpg"}\n["b.jpg"]\n', "line 2: found ['b.jpg']; allowed: a JSON object"),
        ("jsonl", b'{"path": "a.jpg"}\n\n{"name": "b.jpg"}\n', "line 3: no column holds the paths: found 'name'"),
        ("jsonl", b'{"path": "a.jpg", "file": "b.jpg"}\n', "line 1: several columns could hold the paths"),
        ("jsonl", b'{"path": 7}\n', "line 1: found 7; allowed: the path of an image"),
        ("jsonl", b'{"path": "a\\u0000.jpg"}\n', "line 1: found 'a\\x00.jpg'"),
        ("jsonl", b'{"path": "a.jpg"}\n{"path": "b.jpg", "label": ["cat"]}\n', "line 2: found ['cat']; allowed: text"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_honoured(tmp_path, suffix, content, said):
    (tmp_path / f"m.{suffix}").write_bytes(content)
    refused(tmp_path / f"m.{suffix}", said)


def test_a_table_that_is_not_there(tmp_path):
    (tmp_path / "list").write_text(f"{tmp_path}/gone.csv\n")
    with pytest.raises(ConfigError, match=r"gone.csv': cannot be read: No such file"):
        list_images([f"@{tmp_path}/list"])
    write_table(tmp_path / "m.csv", [])
    with pytest.raises(ConfigError, match="no images in"):
        list_images([str(tmp_path / "m.csv")])


def test_many_rows_take_little_memory(tmp_path):
    n = 20_000
    rows = [(f"train/class_{i % 100}/image_{i:08d}.jpg", f"class_{i % 100}", f"id{i}") for i in range(n)]
    listing = list_images([str(write_table(tmp_path / "m.csv", rows))])
    assert listing.paths.nbytes + listing.labels.nbytes + listing.ids.nbytes < 100 * n
    assert listing.labels.tolist() == [i % 100 for i in range(n)]
    assert [listing.paths[0], listing.paths[-1]] == [
        b"class_0/image_00000000.jpg",
        b"class_99/image_00019999.jpg",
    ]


# --- the ids in the output ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of pictures, of which a table names all but the last, and one that there is not."""
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(5):
        write_image(folder / f"{i}.png", 20 + i, 24, seed=i)
    write_table(
        folder / "m.csv",
        [("2.png", "cat", "c"), ("gone.png", "dog", "g"), ("0.png", "dog", ""), ("1.png", "", "ÿ")],
    )
    return folder


@pytest.fixture(scope="module")
def with_ids(pictures, tmp_path_factory):
    output = tmp_path_factory.mktemp("ids") / "f.h5"
    extract([pictures / "m.csv"], output)
    return output


IDS = [b"c", b"g", b"", b"\xc3\xbf"]


def test_ids_are_in_the_file(with_ids):
    with FeatureFile(with_ids) as file:
        assert file.paths == ["2.png", "gone.png", "0.png", "1.png"]
        assert list(file.image_id_table) == IDS
        assert file.image_ids == ["c", "g", "", "ÿ"]
        assert file.classes == ["cat", "dog"]
        assert file.labels.tolist() == [0, 1, 1, -1]
        assert "no such file" in file.errors[1]


def test_new_images_bring_theirs(pictures, tmp_path):
    first = write_table(pictures / "first.csv", [("2.png", "cat", "c")])
    extract([first], tmp_path / "f.h5")
    extract([pictures / "m.csv", pictures], tmp_path / "f.h5", add_new=True)
    with FeatureFile(tmp_path / "f.h5") as file:
        assert file.paths == ["2.png", "gone.png", "0.png", "1.png", "3.png", "4.png"]
        assert list(file.image_id_table) == [*IDS, b"", b""]


def test_exports_and_tables_of_rows_have_them(with_ids, tmp_path):
    pytest.importorskip("pandas")
    for suffix in ("csv", "npz"):
        run("export", with_ids, "-o", tmp_path / f"x.{suffix}", code=0)
    with np.load(tmp_path / "x.npz") as arrays:
        assert arrays["image_id"].tolist() == ["c", "", "ÿ"]
    lines = (tmp_path / "x.csv").read_bytes().split(b"\n")
    column = lines[0].split(b",").index(b"image_id")
    assert [line.split(b",")[column] for line in lines[1:4]] == [b"c", b"", b"\xc3\xbf"]
    with FeatureFile(with_ids) as file:
        assert file.to_pandas()["image_id"].tolist() == ["c", "", "ÿ"]


def test_classes_that_a_table_says_otherwise_now_are_noted_and_not_taken(pictures, tmp_path):
    rows = [("2.png", "cat", "c"), ("0.png", "dog", "d"), ("1.png", "", "e")]

    def labels_after(*classes):
        named = [
            (str(pictures / name), label, called)
            for (name, _, called), label in zip(rows, classes, strict=True)
        ]
        extraction, _ = extract(
            [write_table(tmp_path / "m.csv", named)], tmp_path / "f.h5", retry_failed=True
        )
        with FeatureFile(tmp_path / "f.h5") as file:
            known = (*file.classes, None)
            return [known[label] for label in file.labels], "\n".join(extraction.run.notes)

    assert labels_after("cat", "dog", "")[0] == ["cat", "dog", None]
    assert "another class" not in labels_after("cat", "dog", "")[1]
    kept, notes = labels_after("cat", "cat", "bird")
    assert kept == ["cat", "dog", None]
    assert "2 images have other classes in the inputs than in the file, which keeps its own" in notes
    assert "another class" not in labels_after("", "", "")[1]  # says nothing of them


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_columns_that_are_read_and_those_that_are_ignored_are_noted(tmp_path, suffix):
    names = ("path", "w", "Label", "h")
    for name in ("a", "b"):
        write_table(tmp_path / f"{name}.{suffix}", [(f"{name}.jpg", "1", "cat", "2")], names)
    write_table(tmp_path / f"c.{suffix}", [("c.jpg",)], ("path",))
    listing = list_images([os.fspath(tmp_path / f"{name}.{suffix}") for name in "abc"])
    assert listing.notes[:2] == (
        f"a.{suffix} and 1 more: paths from 'path', classes from 'Label'; ignored: w, h",
        f"c.{suffix}: paths from 'path'",
    )
