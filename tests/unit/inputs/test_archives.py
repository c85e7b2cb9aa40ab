"""Archives as inputs: what unpacking them would give, without unpacking."""

import io
import json
import os
import posixpath
import random
import re
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from conftest import write_image
from extraction_runs import assert_same_descriptors
from hypothesis import given, settings
from hypothesis import strategies as st
from killing import TINY
from packed_images import bytes_at, tar_bytes, zip_bytes

import sppfeat
from sppfeat.decoding.images import decode_image, probe_image
from sppfeat.errors import ConfigError, ImageError
from sppfeat.files.places import Place
from sppfeat.inputs import archives, find_image, list_images
from sppfeat.inputs.archives.index import index_zip
from sppfeat.inputs.archives.tar import index_tar
from sppfeat.inputs.segments import find_members

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
PACKINGS = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED}


# --- archives, packed and unpacked ----------------------------------------------------------------


def special(type_, target="") -> tarfile.TarInfo:
    header = tarfile.TarInfo()
    header.type, header.linkname = type_, target
    return header


def put(path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=(0, 10**18))  # long ago: what was written just now may be written again within a tick
    return str(path)


def unpack(archive, folder) -> str:
    if str(archive).endswith(".tar"):
        with tarfile.open(archive) as tar:
            tar.extractall(folder, **({"filter": "fully_trusted"} if hasattr(tarfile, "data_filter") else {}))
    else:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)
    return str(folder)


def places_of(listing):
    with listing.storage.fetch(np.arange(len(listing.paths)), Path()) as places:
        return list(places)


def found_in(path) -> dict[str, bytes | str]:
    """Bytes of each image of an archive, or why there are none, by its name, in order."""
    listing = list_images([str(path)])
    start = len(Path(path).name) + 1
    return {
        os.fsdecode(name)[start:]: place if isinstance(place, str) else bytes_at(place)
        for name, place in zip(listing.paths, places_of(listing), strict=True)
    }


def labeled(*inputs, labels="auto"):
    listing = list_images(list(map(str, inputs)), labels=labels)
    names = [os.fsdecode(listing.classes[i]) if i >= 0 else None for i in listing.labels.tolist()]
    return dict(zip(map(os.fsdecode, listing.paths), names, strict=True))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Six small pictures in two class folders, by name."""
    top = tmp_path_factory.mktemp("pictures")
    names = ["dog/b.png", "cat/10.jpg", "cat/2.jpg", "dog/a.png", "cat/x/deep.webp", "dog/ü.jpg"]
    for i, name in enumerate(names):
        write_image(top / name, 40 + 4 * i, 60 - 3 * i, seed=i)
    return {name: (top / name).read_bytes() for name in names}


ARCHIVES = [
    *(pytest.param(f"{name}.tar", lambda members, f=f: tar_bytes(members, f), id=name) for name, f in FORMATS.items()),
    *(pytest.param(f"{name}.zip", lambda members, p=p: zip_bytes(members, p), id=name) for name, p in PACKINGS.items()),
    pytest.param("64.zip", lambda members: zip_bytes(members, force_zip64=True), id="zip64"),
    pytest.param("appended.zip", lambda members: b"#!/bin/sh\n" * 99 + zip_bytes(members), id="zip behind a program"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "pack"), ARCHIVES)
def test_an_archive_holds_what_unpacking_it_gives(tmp_path, pictures, name, pack):
    others = [
        ("notes.txt", b"text"),
        ("cat/.hidden.jpg", b"x"),
        ("__MACOSX/cat/._2.jpg", b"x"),
        ("a/.b/c.jpg", b""),
    ]
    archive = put(tmp_path / "in" / name, pack([*others, *pictures.items()]))
    listing, unpacked = list_images([archive]), list_images([unpack(archive, tmp_path / "out")])
    assert listing.root == bytes(tmp_path / "in")
    assert [os.fsdecode(path) for path in listing.paths] == [
        f"{name}/{path}" for path in pictures
    ]  # its own order
    without_macos = [path for path in unpacked.paths if not path.startswith(b"__MACOSX/")]
    assert sorted(path.partition(b"/")[2] for path in listing.paths) == sorted(without_macos)
    assert (
        (listing.classes, listing.n_other_files)
        == (unpacked.classes, unpacked.n_other_files)
        == ((b"cat", b"dog"), 1)
    )
    assert listing.storage.is_local
    for path, place in zip(listing.paths, places_of(listing), strict=True):
        file = os.path.join(tmp_path, "out", os.fsdecode(path.partition(b"/")[2]))
        hw = probe_image(file, exif="apply")
        assert probe_image(place, exif="apply") == hw
        options = {"exif": "apply", "image_hw": hw, "input_hw": (20, 30), "resample": "bilinear"}
        assert np.array_equal(decode_image(place, **options), decode_image(file, **options))


NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=300
) | st.lists(st.sampled_from(["..", ".", "", "a", "b.c", "..d", "e" * 120]), min_size=1, max_size=5).map(
    "/".join
)


@pytest.mark.slow
@settings(max_examples=60)
@given(names=st.lists(NAMES, max_size=5), kind=st.sampled_from([*FORMATS, *PACKINGS]))
def test_names_are_relative_unique_and_the_last_of_each_wins(tmp_path, names, kind):
    files = [(f"{name}.jpg", b"%d" % i) for i, name in enumerate(names)]
    if kind in FORMATS:
        try:
            content = tar_bytes(files, FORMATS[kind])
        except ValueError:  # too long for this format
            return
        segment, members = index_tar(io.BytesIO(content))
    else:
        content = zip_bytes(files, PACKINGS[kind])
        segment, members = index_zip(io.BytesIO(content))
    # What they would be called in a folder that is the whole world.
    inside = [(posixpath.normpath(f"/{name}").lstrip("/"), i) for i, (name, _) in enumerate(files)]
    expected = {name: i for name, i in inside if not any(part.startswith(".") for part in name.split("/"))}
    assert [os.fsdecode(name) for name in segment.names] == sorted(expected, key=expected.__getitem__)
    assert segment.n_repeated == sum(name in expected for name, _ in inside) - len(expected)
    with open(put(tmp_path / "archive", content), "rb") as file:
        places = find_members(os.fsencode(file.name), file.fileno(), members, np.arange(len(segment.names)))
        assert [bytes_at(place) for place in places] == [b"%d" % i for i in sorted(expected.values())]


def test_names_that_are_no_utf8(tmp_path):
    name = os.fsdecode(b"\xff\xfe.jpg")
    for format_ in (tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        archive = put(tmp_path / "a.tar", tar_bytes([(name, b"1")], format_))
        assert list(list_images([archive]).paths) == [b"a.tar/\xff\xfe.jpg"]
    # A zip file without the flag of UTF-8 is in code page 437, as Python has it.
    content = zip_bytes([("x.jpg", b"1")]).replace(b"x.jpg", b"\x81.jpg")
    assert list(found_in(put(tmp_path / "a.zip", content))) == ["ü.jpg"]


# --- members that are no plain files --------------------------------------------------------------


def test_links_in_a_tar_file_are_what_they_lead_to(tmp_path):
    members = [
        ("d/a.jpg", b"first"),
        ("d/hard.jpg", special(tarfile.LNKTYPE, "d/a.jpg")),
        ("d/a.jpg", b"second"),
        ("d/soft.jpg", special(tarfile.SYMTYPE, "a.jpg")),
        ("up.jpg", special(tarfile.SYMTYPE, "./d/../d/soft.jpg")),
        ("text.jpg", special(tarfile.SYMTYPE, ".store/x")),
        (".store/x", b"hidden"),
        ("gone.jpg", special(tarfile.SYMTYPE, "nowhere.jpg")),
        ("out.jpg", special(tarfile.SYMTYPE, "../d/a.jpg")),
        ("passwd.jpg", special(tarfile.SYMTYPE, "/etc/passwd")),
        ("self.jpg", special(tarfile.SYMTYPE, "self.jpg")),
        ("later.jpg", special(tarfile.LNKTYPE, "d/last.jpg")),
        ("d/last.jpg", b"last"),
    ]
    no = "is a link to something that is not in its archive"
    archive = put(tmp_path / "a.tar", tar_bytes(members))
    assert found_in(archive) == {
        "d/hard.jpg": b"first", "d/a.jpg": b"second", "d/soft.jpg": b"second", "up.jpg": b"second",
        "text.jpg": b"hidden",
        "gone.jpg": no, "out.jpg": no, "passwd.jpg": no, "self.jpg": no, "later.jpg": no, "d/last.jpg": b"last",
    }  # fmt: skip
    # A second file of a name takes the place of the first, to which a hard link still leads (GNU tar does so).
    unpacked = Path(unpack(put(tmp_path / "b.tar", tar_bytes(members[2:7])), tmp_path / "out"))
    for name, content in list(found_in(archive).items())[1:5]:
        assert (unpacked / name).read_bytes() == content


def test_what_is_no_regular_file_in_a_tar_file_fails_and_folders_are_left_out(tmp_path):
    sparse = special(tarfile.GNUTYPE_SPARSE)
    members = [
        ("fifo.jpg", special(tarfile.FIFOTYPE)),
        ("device.jpg", special(tarfile.CHRTYPE)),
        ("folder.jpg", special(tarfile.DIRTYPE)),
        ("sparse.jpg", sparse),
        ("empty.jpg", b""),
        ("a.jpg", b"a"),
    ]
    archive = put(tmp_path / "a.tar", tar_bytes(members))
    found = found_in(archive)
    assert list(found) == ["fifo.jpg", "device.jpg", "sparse.jpg", "empty.jpg", "a.jpg"]
    assert found["fifo.jpg"] == found["device.jpg"] == "is not a regular file in its archive"
    assert found["sparse.jpg"] == "is a sparse file in its archive, which cannot be read in place"
    with pytest.raises(ImageError, match="empty file"):
        probe_image(find_image(b"", os.fsencode(f"{archive}/empty.jpg")), exif="apply")


def test_members_of_a_zip_file_that_cannot_be_read_in_place_fail_with_a_reason(tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("bz.jpg", b"x" * 99, zipfile.ZIP_BZIP2)
        archive.writestr("lzma.jpg", b"x" * 99, zipfile.ZIP_LZMA)
        link = zipfile.ZipInfo("link.jpg")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "bz.jpg")
        archive.writestr("folder.jpg/", b"")
        archive.writestr("empty.jpg", b"", zipfile.ZIP_DEFLATED)
        archive.writestr("encrypted.jpg", b"12345")
        archive.writestr("bomb.jpg", bytes(9999), zipfile.ZIP_DEFLATED)
        archive.writestr("far.jpg", b"1")
        archive.writestr("lost.jpg", b"1")
        archive.writestr("two.jpg", b"1234")
        archive.writestr("a.jpg", b"a")
    content = bytearray(packed.getvalue())

    def change(name, at, fmt, *values):
        start = content.index(b"PK\1\2", content.rindex(name) - 46 - 0)
        struct.pack_into(fmt, content, start + at, *values)

    change(b"encrypted.jpg", 8, "<H", 1)
    change(b"bomb.jpg", 24, "<I", 3_000_000_000)
    change(b"far.jpg", 20, "<II", 5000, 5000)
    change(b"two.jpg", 24, "<I", 3)
    start = content.index(b"lost.jpg") - 30
    content[start : start + 4] = b"lost"
    assert found_in(put(tmp_path / "a.zip", bytes(content))) == {
        "bz.jpg": "is compressed by bzip2 in its archive; allowed: stored, deflated",
        "lzma.jpg": "is compressed by LZMA in its archive; allowed: stored, deflated",
        "link.jpg": "is a link in its archive",
        "empty.jpg": b"",
        "encrypted.jpg": "is encrypted in its archive",
        "bomb.jpg": "would unpack to more than 1073741824 bytes",
        "far.jpg": "damaged in its archive: it would end beyond the end of the archive",
        "lost.jpg": "damaged in its archive: its header is missing",
        "two.jpg": "damaged in its archive: stored with two different sizes",
        "a.jpg": b"a",
    }


# --- damaged and hostile archives -----------------------------------------------------------------


def test_a_tar_file_that_is_cut_short_anywhere_is_refused():
    whole = tar_bytes([("a.jpg", b"x" * 700), ("n" * 150 + ".jpg", b"y"), ("b.jpg", b"z" * 512)])
    end = len(whole.rstrip(b"\0")) + 511 & ~511  # of the last member
    index_tar(io.BytesIO(whole[: end + 512]))  # one block of zeros is an end
    for n in [*range(0, end, 97), *range(512, end + 1, 512)]:
        with pytest.raises(ConfigError, match=r"cut short|without the mark|it is empty|at byte"):
            index_tar(io.BytesIO(whole[:n]))


def test_damage_of_a_tar_file_is_said_with_its_place(tmp_path):
    whole = bytearray(tar_bytes([("a.jpg", b"x" * 700), ("b.jpg", b"y"), ("c.jpg", b"z")]))
    whole[1536 + 3] ^= 1  # in the header of the second member
    with pytest.raises(
        ConfigError, match=r"cannot read the archive '.*a.tar': .*no member header at byte 1536"
    ):
        list_images([put(tmp_path / "a.tar", bytes(whole))])
    with pytest.raises(ConfigError, match="no tar header at byte 0"):
        list_images([put(tmp_path / "a.tar", b"no tar file " * 99)])
    joined = tar_bytes([("a.jpg", b"1")]) + tar_bytes([("b.jpg", b"2")])
    with pytest.raises(ConfigError, match="another archive begins at byte 10240"):
        list_images([put(tmp_path / "a.tar", joined)])


SIZES = [b"\xff" * 10 + b"\0\0", b"\x80" + b"\x7f" * 11, b"77777777777\0"]  # -65536, 2**87, 2**33 - 1


@pytest.mark.parametrize(
    ("size", "type_"),
    [
        (b"\xff" * 12, b"0"),  # -1
        *((size, type_) for size in SIZES for type_ in (b"0", b"L", b"x")),
    ],
)
def test_sizes_that_cannot_be_are_refused(size, type_):
    block = bytearray(tar_bytes([("a.jpg", b"1")])[:512])
    block[124:136], block[156:157] = size, type_
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    with pytest.raises(ConfigError, match=r"at byte|cut short"):
        index_tar(io.BytesIO(bytes(block) + tar_bytes([("b.jpg", b"2")])))


def test_thousands_of_long_names_for_one_member_are_refused():
    name = tar_bytes([("n" * 150, b"")])[:1024]
    with pytest.raises(ConfigError, match="no tar header"):
        index_tar(io.BytesIO(name * 3000))


@given(
    seed=st.integers(0, 2**32),
    kind=st.sampled_from([*FORMATS, *PACKINGS]),
    n_changes=st.integers(1, 5),
)
def test_an_archive_with_changed_bytes_is_refused_or_read_within_its_bounds(seed, kind, n_changes):
    draw = random.Random(seed)
    members = [("a.jpg", b"1" * 300), ("b" * 120 + ".jpg", b"2"), ("ü.jpg", b""), ("a.json", b'{"label": 1}')]
    is_tar = kind in FORMATS
    format_ = FORMATS["gnu" if kind == "ustar" else kind] if is_tar else None
    content = bytearray(tar_bytes(members, format_) if is_tar else zip_bytes(members, PACKINGS[kind]))
    for _ in range(n_changes):
        content[draw.randrange(len(content.rstrip(b"\0")))] = draw.choice(
            [0, 255, 48, 55, draw.randrange(256)]
        )
    try:
        _, found = (index_tar if is_tar else index_zip)(io.BytesIO(bytes(content)))
    except ConfigError:
        return
    offset, nbytes, _, unpacked_nbytes = found.ranges.T
    assert (offset >= 0).all()
    assert (offset + nbytes <= len(content)).all()
    assert (unpacked_nbytes <= 1 << 30).all()


def test_a_damaged_central_directory_is_refused(tmp_path):
    whole = zip_bytes([("a.jpg", b"1"), ("b.jpg", b"2")])
    for content in (whole[:-5], whole[:40], b"", b"PK\3\4", whole.replace(b"PK\1\2", b"PK\1\3")):
        with pytest.raises(ConfigError, match=r"cannot read the archive '.*a.zip': it is"):
            list_images([put(tmp_path / "a.zip", content)])


def test_compressed_tar_files_are_refused_and_said_how_to_decompress(tmp_path):
    for suffix in ("tar.gz", "tgz", "tar.bz2", "tar.xz", "TAR.ZST"):
        with pytest.raises(ConfigError, match=r"compressed as a whole.*decompress it first, by '.*d"):
            list_images([put(tmp_path / f"a.{suffix}", b"1")])
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz"):
        pass
    with pytest.raises(ConfigError, match="it is compressed by gzip"):
        list_images([put(tmp_path / "a.tar", packed.getvalue())])


def test_an_archive_that_changes_while_images_are_read_gives_reasons_and_no_other_image(tmp_path):
    archive = put(tmp_path / "a.tar", tar_bytes([("a.jpg", b"1"), ("b.jpg", b"2")]))
    listing = list_images([archive])
    put(tmp_path / "a.tar", tar_bytes([("b.jpg", b"2"), ("a.jpg", b"1")]))
    os.utime(archive)
    assert places_of(listing) == ["its archive has changed since it was listed"] * 2
    os.unlink(archive)
    assert places_of(listing) == ["its archive cannot be read: No such file or directory"] * 2


# --- labels ---------------------------------------------------------------------------------------


def test_samples_of_webdataset_have_the_class_and_id_that_their_texts_tell(tmp_path):
    members = [
        ("0001.jpg", b"1"),
        ("0001.seg.png", b"2"),
        ("0001.cls", b"10\n"),
        ("a.b/0002.cls", b" 2 "),
        ("a.b/0002.JPG", b"3"),
        ("0003.json", b'{"label": 7, "id": "three", "class_name": "dog"}'),
        ("0003.jpg", b"4"),
        ("0004.jpg", b"5"),
        ("0004.json", b'{"category": 2, "key": 4}'),
        ("0004.cls", b"10"),  # which counts more
        ("0005.jpg", b"6"),
        ("0005.json", b"[1]"),
        ("0006.jpg", b"7"),
        ("0006.json", b'{"label": true, "cls": ["x"], "class": "\\ud800", "id": null}'),
        ("0007.jpg", b"8"),
        ("0007.json", b'{"label": ' + b"[" * 100_000),
        ("0008.jpg", b"9"),
        ("0008.cls", b"x" * 2000),
        ("0009.txt", b"a caption"),
    ]
    listing = list_images([put(tmp_path / "a.tar", tar_bytes(members))])
    names = [path.partition(b"/")[2] for path in listing.paths]
    assert names == [os.fsencode(name) for name, _ in members if name.lower().endswith(("jpg", "png"))]
    assert listing.classes == (b"2", b"10", b"dog", b"\xed\xa0\x80")
    assert listing.labels.tolist() == [1, 1, 0, 2, 1, -1, 3, -1, -1]
    assert listing.n_unlabeled == 3
    assert list(listing.ids) == [b"", b"", b"", b"three", b"4", b"", b"", b"", b""]
    assert listing.n_other_files == 1
    assert set(labeled(tmp_path / "a.tar", labels="none").values()) == {None}


def test_texts_that_tell_no_class_leave_it_to_the_folders(tmp_path):
    members = [
        ("cat/1.jpg", b""),
        ("cat/1.json", b'{"caption": "x"}'),
        ("dog/2.jpg", b""),
        ("dog/2.cls", b""),
    ]
    listing = list_images([put(tmp_path / "a.tar", tar_bytes(members))])
    assert listing.classes == (b"cat", b"dog")
    assert listing.ids is None


def test_several_archives_share_their_classes_and_are_themselves_none(tmp_path):
    for i, (one, two) in enumerate([(b"3", b"10"), (b"3", b"4")]):
        members = [("1.jpg", b""), ("1.cls", one), ("2.jpg", b""), ("2.cls", two)]
        put(tmp_path / f"own/{i}.tar", tar_bytes(members))
        put(tmp_path / f"flat/{i}.zip", zip_bytes(members))
    listing = list_images([str(tmp_path / "own")])
    assert listing.classes == (b"3", b"4", b"10")
    assert listing.labels.tolist() == [0, 2, 0, 1]
    assert list_images([str(tmp_path / "flat")]).classes == ()
    assert list_images([str(tmp_path / "flat")], labels="folder").classes == ()
    assert labeled(tmp_path / "own", tmp_path / "flat")["flat/0.zip/1.jpg"] is None


def test_an_archive_that_holds_one_folder_is_labelled_as_that_folder(tmp_path):
    def packed(name, *names):
        return put(tmp_path / name, zip_bytes([(f"{of}.jpg", b"") for of in names]))

    one = packed("photos.zip", "photos/cat/1", "photos/dog/2")
    assert list(labeled(one).values()) == ["cat", "dog"]
    assert list(labeled(unpack(one, tmp_path / "out") + "/photos").values()) == ["cat", "dog"]
    train, val = (
        packed("train.zip", "train/cat/1", "train/dog/1"),
        packed("val.zip", "val/dog/1", "val/cat/1"),
    )
    assert list(labeled(train, val).values()) == ["cat", "dog", "dog", "cat"]
    cats, dogs = packed("c.zip", "cat/1", "cat/2"), packed("d.zip", "dog/1")
    assert list(labeled(cats, dogs).values()) == ["cat", "cat", "dog"]
    assert list(labeled(cats).values()) == [None, None]
    assert list(labeled(cats, labels="folder").values()) == ["cat", "cat"]
    # One shard of several happens to have one class.
    assert list(labeled(dogs, packed("e.zip", "cat/1", "dog/2")).values()) == ["dog", "cat", "dog"]


# --- which archives are read ----------------------------------------------------------------------


def test_a_folder_without_images_is_that_of_its_archives(tmp_path):
    for i in (10, 9):
        put(tmp_path / f"shards/train/{i}.tar", tar_bytes([(f"{i}.jpg", b"")]))
    put(tmp_path / "shards/more.zip", zip_bytes([("z.jpg", b""), ("z.txt", b"")]))
    put(tmp_path / "shards/notes.txt", b"")
    put(tmp_path / "shards/.hidden.tar", b"")
    listing = list_images([str(tmp_path / "shards")])
    assert list(listing.paths) == [b"more.zip/z.jpg", b"train/9.tar/9.jpg", b"train/10.tar/10.jpg"]
    assert (listing.root, listing.n_other_files) == (bytes(tmp_path / "shards"), 2)
    put(tmp_path / "shards/train/photo.jpg", b"")
    listing = list_images([str(tmp_path / "shards")])
    assert list(listing.paths) == [b"train/photo.jpg"]
    assert listing.n_other_files == 4
    put(tmp_path / "packed/a.tar.gz", b"")
    with pytest.raises(ConfigError, match="decompress it first"):
        list_images([str(tmp_path / "packed")])


def test_archives_files_and_folders_are_joined_in_their_order(tmp_path, pictures, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "a.tar", tar_bytes([("1.jpg", b"t1"), ("2.jpg", b"t2")]))
    put(tmp_path / "sub/b.ZIP", zip_bytes([("1.jpg", b"z" * 50)], zipfile.ZIP_DEFLATED))
    put(tmp_path / "sub/c.jpg", b"c")
    put(tmp_path / "list", b"sub/b.ZIP\nsub/c.jpg\na.tar\n")
    listing = list_images(["sub/c.jpg", "@list"])
    assert list(listing.paths) == [b"sub/c.jpg", b"sub/b.ZIP/1.jpg", b"a.tar/1.jpg", b"a.tar/2.jpg"]
    assert listing.n_repeated == 1
    assert [bytes_at(place) for place in places_of(listing)[1:]] == [b"z" * 50, b"t1", b"t2"]
    assert list_images(["a.tar", "a.tar"]).n_repeated == 2


@pytest.mark.parametrize("name", ["gone.tar", "gone.zip", "pipe.tar"])
def test_an_archive_that_cannot_be_read_is_wrong_usage(tmp_path, name):
    os.mkfifo(tmp_path / "pipe.tar")
    put(tmp_path / "list", os.fsencode(tmp_path / name))
    result = run("extract", f"@{tmp_path / 'list'}", "-o", tmp_path / "f.h5", code=2)
    assert f"cannot read the archive '{tmp_path / name}'" in result.stderr
    assert not (tmp_path / "f.h5").exists()


def test_an_archive_without_images_is_wrong_usage(tmp_path):
    with pytest.raises(ConfigError, match=r"no images in .*: 1 file there"):
        list_images([put(tmp_path / "a.tar", tar_bytes([("a.txt", b"")]))])
    folder = tmp_path / "folder.tar"  # which it is
    put(folder / "a.jpg", b"")
    assert list(list_images([str(folder)]).paths) == [b"a.jpg"]


# --- the cache of indexes -------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, in which every index is kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(archives, "_FEWEST_IMAGES", 1)
    monkeypatch.setattr(archives, "_SETTLED_NS", 0)
    return tmp_path / "cache" / "sppfeat" / "indexes"


SAMPLES = [
    ("1.jpg", b"one"),
    ("1.cls", b"cat"),
    ("1.json", b'{"id": 5}'),
    ("2.jpg", special(tarfile.FIFOTYPE)),
]
FACTS = ([b"1.jpg", b"2.jpg"], (b"cat",), [0, -1], [b"5", b""], ["is not a regular file in its archive"])


def facts_of(path):
    listing = list_images([str(path)])
    names = [name.rpartition(b"/")[2] for name in listing.paths]
    return names, listing.classes, listing.labels.tolist(), list(listing.ids), places_of(listing)[1:]


def test_an_index_is_kept_and_used_as_long_as_the_archive_is_the_same(tmp_path, cache, monkeypatch):
    built = []
    monkeypatch.setattr(archives, "index_tar", lambda file: built.append(file.name) or index_tar(file))
    archive = tmp_path / "a.tar"
    put(archive, tar_bytes(SAMPLES))
    assert [facts_of(archive) for _ in range(3)] == [FACTS] * 3
    (kept,) = cache.iterdir()
    assert (kept.suffix, len(built)) == (".npz", 1)
    # A size of 10 kB and a time that was set are those of many tar files.
    before = archive.stat()
    put(archive, tar_bytes([("3.jpg", b"three"), *SAMPLES]))
    assert (archive.stat().st_size, archive.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert facts_of(archive)[0] == [b"3.jpg", b"1.jpg", b"2.jpg"]
    assert len(built) == 2
    os.rename(archive, tmp_path / "b.tar")
    assert facts_of(tmp_path / "b.tar")[0] == [b"3.jpg", b"1.jpg", b"2.jpg"]
    assert len(built) == 3
    assert kept in cache.iterdir()


def test_a_kept_index_that_is_damaged_or_of_something_else_is_built_again(tmp_path, cache):
    one, other = tmp_path / "a.tar", tmp_path / "b.tar"
    put(one, tar_bytes(SAMPLES))
    facts_of(one)
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    put(other, tar_bytes([("x.jpg", b"")], tarfile.PAX_FORMAT))
    list_images([str(other)])
    (of_other,) = set(cache.iterdir()) - {kept}
    draw = random.Random(5)
    damaged = [
        b"",
        whole[:-9],
        whole[: len(whole) // 2],
        of_other.read_bytes(),
        zip_bytes([("key.npy", b"1")]),
    ]
    # Checksums cover the columns, and not their names, which are in the directory at the end.
    names = [
        match.start() for match in re.finditer(rb"\w+\.npy", whole) if match.start() > whole.find(b"PK\1\2")
    ]
    assert len(names) >= 8
    for place in [*names, *(draw.randrange(len(whole)) for _ in range(40))]:
        changed = bytearray(whole)
        changed[place] ^= 1 << draw.randrange(5)
        damaged.append(bytes(changed))
    for content in damaged:
        kept.write_bytes(content)
        assert facts_of(one) == FACTS


def test_where_nothing_can_be_kept_archives_are_read_all_the_same(tmp_path, cache, monkeypatch):
    archive = put(tmp_path / "a.tar", tar_bytes(SAMPLES))
    put(tmp_path / "cache", b"a file, and no folder")
    assert facts_of(archive) == FACTS
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "relative")
    assert facts_of(archive) == FACTS


def test_no_index_is_kept_of_a_small_archive_or_one_that_was_written_just_now(tmp_path, cache, monkeypatch):
    archive = put(tmp_path / "a.tar", tar_bytes(SAMPLES))
    monkeypatch.setattr(archives, "_SETTLED_NS", 10**12)
    facts_of(archive)
    monkeypatch.setattr(archives, "_SETTLED_NS", 0)
    monkeypatch.setattr(archives, "_FEWEST_IMAGES", 3)
    facts_of(archive)
    assert not cache.exists()


# --- finding images again -------------------------------------------------------------------------


def test_an_image_is_found_by_its_root_and_path(tmp_path, monkeypatch):
    put(tmp_path / "d/a.tar", tar_bytes([("x/1.jpg", b"one"), ("2.jpg", special(tarfile.FIFOTYPE))]))
    put(tmp_path / "d/inner.zip", zip_bytes([("y.tar/1.jpg", b"packed" * 9)], zipfile.ZIP_DEFLATED))
    put(tmp_path / "d/b.tar/1.jpg", b"file")
    put(tmp_path / "d/bad.tar", b"bad" * 999)
    root = bytes(tmp_path)
    assert bytes_at(find_image(root, b"d/a.tar/x/1.jpg")) == b"one"
    assert bytes_at(find_image(root, b"d/inner.zip/y.tar/1.jpg")) == b"packed" * 9
    assert find_image(root, b"d/b.tar/1.jpg") == Place(root + b"/d/b.tar/1.jpg")
    monkeypatch.chdir(tmp_path / "d")
    assert bytes_at(find_image(b"", b"a.tar/x/1.jpg")) == b"one"
    for path, said in {
        b"d/a.tar/x/2.jpg": "no such image in '.*/d/a.tar'",
        b"d/a.tar/2.jpg": "is not a regular file in its archive",
        b"d/bad.tar/1.jpg": "cannot read the archive '.*bad.tar': no tar header at byte 0",
        b"d/gone.tar/1.jpg": "no such file",
        b"gone.jpg": "no such file",
        b"d/a\0.tar/1.jpg": "no such file",
    }.items():
        with pytest.raises(ImageError, match=said):
            find_image(root, path)
    put(tmp_path / "d/a.tar", tar_bytes([("x/1.jpg", b"another")]))
    assert bytes_at(find_image(root, b"d/a.tar/x/1.jpg")) == b"another"


# --- extraction -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def packed(tmp_path_factory, pictures):
    """The pictures in a folder, a tar and a zip file, and features of each."""
    top = tmp_path_factory.mktemp("packed")
    for name, content in pictures.items():
        put(top / "folder" / name, content)
    put(top / "a.tar", tar_bytes(pictures.items()))
    put(top / "a.zip", zip_bytes(pictures.items(), zipfile.ZIP_DEFLATED))
    for name in ("folder", "a.tar", "a.zip"):
        run("extract", top / name, "-o", top / f"{name}.h5", *TINY, "--quiet", code=0)
    return top


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.tar", "a.zip"])
def test_features_of_an_archive_are_those_of_the_unpacked_folder(packed, name):
    with sppfeat.open(packed / f"{name}.h5") as file, sppfeat.open(packed / "folder.h5") as unpacked:
        assert [path.removeprefix(f"{name}/") for path in file.paths] != unpacked.paths
        row_of = {path: i for i, path in enumerate(unpacked.paths)}
        same = [row_of[path.removeprefix(f"{name}/")] for path in file.paths]
        assert file.classes == unpacked.classes == ["cat", "dog"]
        assert_same_descriptors(file.features, unpacked.features[same])
        assert np.array_equal(file.labels, unpacked.labels[same])
        assert np.array_equal(file.image_hw, unpacked.image_hw[same])
    result = run("verify", packed / f"{name}.h5", "--recompute", 6, "--json", "--quiet", code=0)
    assert json.loads(result.stdout)["recomputed"]["problems"] == []


def test_an_extractor_takes_images_in_archives(packed):
    extractor = sppfeat.Extractor(
        "squeezenet1_1", weights="none", seed=3, levels=(1, 2), size=40, device="cpu"
    )
    inside = find_image(bytes(packed), b"a.zip/cat/2.jpg")
    one, two, three = extractor([f"{packed}/folder/cat/2.jpg", f"{packed}/a.tar/cat/2.jpg", inside])
    assert_same_descriptors(np.stack([two, three]), np.stack([one, one]))
    with pytest.raises(ImageError, match=r"a.tar' at byte 1"):
        extractor(Place(bytes(packed / "a.tar"), 1, 5))


def test_show_and_search_take_images_in_archives(packed, tmp_path):
    run("show", "image", "--from", packed / "a.tar.h5", "--row", 2, "-o", tmp_path / "row.png", code=0)
    search = ("search", packed / "a.tar.h5", "-k", 1, "--json")
    found = json.loads(run(*search, f"{packed}/a.zip/cat/2.jpg", code=0).stdout)
    assert found[0]["hits"][0]["path"] == f"{packed}/a.tar/cat/2.jpg"
    assert f"no such image in '{packed}/a.zip'" in run(*search, f"{packed}/a.zip/gone.jpg", code=2).stderr


def test_training_and_benches_refuse_archives(packed, tmp_path):
    for command in (("bench", "extract"), ("train",)):
        output = ("-o", tmp_path / "out") if command == ("train",) else ()
        result = run(*command, packed / "a.tar", *output, code=2)
        assert "the inputs include archives or remote files; allowed: folders, images" in result.stderr
