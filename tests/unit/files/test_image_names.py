"""The inputs that image names match, against a comparison of each name with each path part by part."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sppfeat.errors import BoxError
from sppfeat.files.image_names import match_images

ROOT = b"/data/photos"
FOLDERS = ["", "a/", "b/", "a/b/", "photos/"]
STEMS = ["1", "2", "01", "photo", "photo.v2", "x.jpg"]
PATHS = st.lists(
    st.builds(
        "{}{}{}".format, st.sampled_from(FOLDERS), st.sampled_from(STEMS), st.sampled_from([".jpg", ".PNG"])
    ),
    unique=True,
    max_size=8,
)
NAMES = st.lists(
    st.builds(
        "{}{}{}{}".format,
        st.sampled_from(["", "./", "../", "../../x/../", "/data/photos/", "photos/", "data/photos/", "/"]),
        st.sampled_from(FOLDERS),
        st.sampled_from(STEMS),
        st.sampled_from(["", ".jpg", ".PNG", ".png"]),
    ),
    unique=True,
    max_size=8,
)


def match(names, paths, kind="path", root=ROOT):
    encoded = [path if isinstance(path, bytes) else path.encode() for path in paths]
    named = [name if isinstance(name, bytes) else name.encode() for name in names]
    image_of, _ = match_images(named, root, encoded, kind=kind)
    assert image_of.dtype.kind == "i"
    return image_of.tolist()


def notes_on(names, paths, root=ROOT):
    return match_images([name.encode() for name in names], root, [path.encode() for path in paths]).notes


def parts_of(name):
    """Parts of a name without ``.`` and leading ``..``, and True if it is absolute."""
    parts = []
    for part in name.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return parts, name.startswith("/")


def fit(name, path):
    """Quality of the match of a path and a name: (with suffix, from the root), or None."""
    parts, is_absolute = parts_of(name)
    below = path.split("/")
    whole = ROOT.decode().strip("/").split("/") + below
    ends_like_an_image = parts[-1].lower().endswith((".jpg", ".png"))
    for with_suffix in (True, False):
        if not with_suffix:
            if ends_like_an_image:
                return None
            below, whole = ([*p[:-1], p[-1].rpartition(".")[0]] for p in (below, whole))
        if is_absolute:
            if parts == whole:
                return with_suffix, True
        elif parts == below:
            return with_suffix, True
        elif whole[-len(parts) :] == parts:
            return with_suffix, False
    return None


def expected(name, paths):
    """Index of the path that a whole name matches; -1 for no path, None if ambiguous."""
    fits = [(fit(name, path), i) for i, path in enumerate(paths) if fit(name, path) is not None]
    if not fits:
        return -1
    best = max(fits)[0]
    winners = [i for how, i in fits if how == best]
    return winners[0] if len(winners) == 1 else None


def end_of(name, path):
    """Quality of the match of the ends of a name and a path: (with suffix, number of equal parts)."""
    stem = str.rpartition
    parts, whole = parts_of(name)[0], [*ROOT.decode().strip("/").split("/"), *path.split("/")]
    is_image = parts[-1].lower().endswith((".jpg", ".png"))

    def n_equal(one, other):
        pairs = zip(reversed(one), reversed(other), strict=False)
        return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))

    def without(parts):
        return [*parts[:-1], stem(parts[-1], ".")[0]]

    if is_image:
        return max(
            (True, n_equal(parts, whole)), (False, n_equal(without(parts), without(whole))), key=bool_first
        )
    return max((True, n_equal(parts, without(whole))), (True, n_equal(parts, whole)))


def bool_first(how):
    """Sort key: a match with the suffix beats one without; no equal part is no match."""
    return how[1] > 0, how


def expected_by_ends(names, paths):
    """Index of the path whose end each name matches best, or -1, given the matches of whole names."""
    whole = {name: expected(name, paths) for name in names}
    claims = {}
    for name in names:
        hows = [end_of(name, path) for path in paths]
        best = max(hows, key=bool_first, default=(False, 0))
        if whole[name] == -1 and best[1] and hows.count(best) == 1:
            claims.setdefault(hows.index(best), []).append((best, name))
    found = dict(whole)
    for image, of_image in claims.items():
        best, name = max(of_image)
        is_alone = [how for how, _ in of_image].count(best) == 1
        if is_alone and image not in whole.values():
            found[name] = image
    return [found[name] for name in names]


@given(NAMES, PATHS)
def test_each_name_matches_its_best_path(names, paths):
    wanted = {name: expected(name, paths) for name in names}
    if None in wanted.values():
        with pytest.raises(BoxError, match="could mean"):
            match(names, paths)
    clear = [name for name in names if wanted[name] is not None]
    assert match(clear, paths) == expected_by_ends(clear, paths)


@pytest.mark.parametrize(
    "name", ["train/../train/./1.jpg", "train//1.jpg", " 1.jpg\r", "/data/photos/val/../train/1"]
)
def test_odd_spellings_of_a_path_or_its_end(name):
    assert match([name], ["train/0.jpg", "train/1.jpg"]) == [1]


@pytest.mark.parametrize("name", ["11.jpg", "1/x.jpg", "/11.jpg", ".jpg", "", "..", "/", "1."])
def test_names_that_match_no_input(name):
    assert match([name], ["train/1.jpg"]) == [-1]


@pytest.mark.parametrize(
    ("kind", "names", "paths", "wanted"),
    [
        # posixpath.normpath keeps exactly two leading slashes, which made //data/... differ from /data/...
        ("path", ["//data/photos/1.jpg"], ["1.jpg"], [0]),
        # Dots that do not begin an image suffix.
        ("path", ["photo.v2", "a.b/c.d"], ["photo.jpg", "photo.v2.jpg", "a.b/c.d.png"], [1, 2]),
        # Files named individually are inputs whatever their suffix.
        # 'photo' was once matched to 'photo.v2', which then got its boxes.
        ("path", ["photo"], ["photo.v2", "other.jpg"], [-1]),
        ("path", ["photo", "photo.v2"], ["photo", "photo.v2", "x/photo.jpg"], [0, 1]),
        # The blank was once stripped from the name only, so that another image got the boxes.
        ("path", [" a.jpg", "a.jpg"], ["a.jpg", " a.jpg"], [1, 0]),
        ("path", [], ["1.jpg"], []),
        ("path", ["1.jpg"], [], [-1]),
        # Only the last part of a text id was once compared, so b/1 matched a/1.jpg.
        ("id", ["a/1", "b/1"], ["a/1.jpg"], [0, -1]),
        ("id", ["a/1", "b/1"], ["a/1.jpg", "b/1.jpg"], [0, 1]),
        # image_id "abc.jpg" of COCO results once matched no input, not even abc.jpg.
        ("id", ["abc.jpg"], ["abc.jpg", "abd.jpg"], [0]),
        # A file with the boxes of one image is for the only input; among several, its file name decides.
        ("single", ["boxes"], ["photo.jpg"], [0]),
        ("single", ["2"], ["1.jpg", "2.jpg"], [1]),
        ("single", ["boxes"], ["1.jpg", "2.jpg"], [-1]),
        ("single", ["1"], [], [-1]),
    ],
)
def test_names_and_their_matches(kind, names, paths, wanted):
    assert match(names, paths, kind) == wanted


def test_names_that_are_not_utf_8():
    paths = [b"a/\xff\xfe.jpg", b"a/\xff.jpg"]
    assert match([b"\xff.jpg", b"a/\xff\xfe", b"\xfe.jpg"], paths) == [1, 0, -1]
    with pytest.raises(BoxError, match=r"\\udcff\.jpg"):
        match([b"\xff.jpg"], [b"a/\xff.jpg", b"b/\xff.jpg"])


@pytest.mark.parametrize("paths", list(itertools.permutations(["a/1.jpg", "b/1.jpg", "2.jpg"])))
def test_an_ambiguous_name_is_an_error_that_names_both_inputs(paths):
    with pytest.raises(BoxError) as raised:
        match(["2.jpg", "1.jpg"], paths)
    assert all(repr(name) in str(raised.value) for name in ("1.jpg", "a/1.jpg", "b/1.jpg"))
    assert match(["2.jpg", "b/1.jpg"], paths) == [paths.index("2.jpg"), paths.index("b/1.jpg")]


def test_coco_ids():
    paths = [
        "val/COCO_val2014_000000000042.jpg",
        "000000000139.jpg",
        "7.png",
        "0.jpg",
        "img_9.jpg",
        "n10.jpg",
    ]
    ids = ["42", "139", "000007", "0", "img_9", "9", "10", "4"]
    assert match(ids, paths, "id") == [0, 1, 2, 3, 4, -1, -1, -1]
    with pytest.raises(BoxError, match=r"'7'.*could mean 'a/007\.jpg' or 'b/7\.jpg'"):
        match(["7"], ["a/007.jpg", "b/7.jpg"], "id")


CAFE = "caf\u00e9.jpg", "cafe\u0301.jpg"


@pytest.mark.parametrize(
    ("names", "paths", "wanted", "note"),
    [
        (CAFE[:1], CAFE[1:], [0], "1 name matched only after Unicode normalization"),
        (CAFE[1:], CAFE[:1], [0], "1 name matched only after Unicode normalization"),
        # With both forms on disk, the bytes decide.
        (CAFE, CAFE[::-1], [1, 0], None),
        (
            [f"a\\{CAFE[0]}", "a\\1.jpg"],
            [f"a/{CAFE[1]}", "a/1.jpg"],
            [0, 1],
            r"2 names matched with \ read as /",
        ),
        # Names from an archive made on Windows.
        (["a/1.jpg"], ["a\\1.jpg", "b\\1.jpg"], [0], r"1 name matched with \ read as /"),
        (
            ["/home/al/train/1.jpg"],
            ["train/1.jpg", "val/1.jpg"],
            [0],
            "1 name matched only by the end of the path",
        ),
        (
            ["C:\\data\\1.jpg", r"\\\\nas\\x\\2.jpg"],
            ["1.jpg", "2.jpg"],
            [0, 1],
            "2 names matched only by the file name",
        ),
        (["data/img/1", "data/img/2"], ["1.jpg", "2.jpg"], [0, 1], "2 names matched only by the file name"),
        (
            ["1.png", "x/2.JPG"],
            ["1.jpg", "2.jpg"],
            [0, 1],
            "2 names matched only by the file name without its suffix",
        ),
        (["q/1.jpg"], ["a/1.jpg", "b/1.jpg"], [-1], "1 name fits several images and is left out"),
        (["1.png"], ["1.jpg", "1.webp"], [-1], "1 name fits several images and is left out"),
        # The file name alone would match an image in another folder.
        (
            ["train/1.jpg", "val/1.jpg"],
            ["train/1.jpg"],
            [0, -1],
            "1 name is left out, because another name fits",
        ),
        (["p/1.jpg", "q/1.jpg"], ["a/1.jpg"], [-1, -1], "2 names are left out, because another name fits"),
        (["1.jpg", "1.png"], ["1.jpg"], [0, -1], "1 name is left out, because another name fits"),
        # A name twice, as in a table with a row for each box.
        (["p/1.jpg", "p/1.jpg"], ["a/1.jpg"], [0, 0], "2 names matched only by the file name"),
    ],
)
def test_weaker_rules_are_noted(names, paths, wanted, note):
    assert match(names, paths) == wanted
    notes = notes_on(names, paths)
    assert [text.startswith(note) for text in notes] == [True] if note else not notes


def test_a_normalized_name_that_matches_two_inputs_is_an_error():
    mixed = "cafe\u0301/\u00e9.jpg"
    with pytest.raises(BoxError, match="could mean"):
        match([mixed], ["caf\u00e9/\u00e9.jpg", "cafe\u0301/e\u0301.jpg"])


# --- speed ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["path", "id"])
def test_many_names(kind):
    numbers = range(10_000)
    paths = [f"train/{i:012d}.jpg" for i in numbers]
    names = [f"train/{i:012d}.jpg" if kind == "path" else f"{i}" for i in numbers]
    assert match(names, paths, kind) == list(numbers)


def test_a_name_of_a_megabyte_is_shown_in_part():
    with pytest.raises(BoxError, match=r"'\./\./.*\.\.\.' could mean 'a/1\.jpg' or 'b/1\.jpg'") as raised:
        match(["./" * 500_000 + "1.jpg"], ["a/1.jpg", "b/1.jpg"])
    assert len(str(raised.value)) < 5000


# Cases that once took minutes; at these sizes, a relapse would not end.


def test_a_name_with_very_many_parent_folders():
    assert match([b"../" * 1_000_000 + b"photos/1.jpg"], ["1.jpg"]) == [0]


def test_an_id_of_many_zeros():
    assert match(["0" * 1_000_000 + "x", "0" * 1_000_000 + "7", "0" * 9], ["7.jpg", "0.jpg"], "id") == [
        -1,
        0,
        1,
    ]


@pytest.mark.slow
def test_many_spellings_of_a_name_that_many_files_share():
    spellings = itertools.product(["/", "/./"], repeat=13)
    names = [f"x{''.join(spelling)}1.jpg" for spelling in spellings]
    paths = [f"{i}/x/1.jpg" for i in range(len(names))]
    with pytest.raises(BoxError, match="could mean"):
        match(names, paths)
    assert match(names, [*paths, "x/1.jpg"]) == [len(paths)] * len(names)


def test_frames_of_many_videos_share_their_names():
    # Each name was once compared with every path of the same last part: 250 x 250 x 10 comparisons for 2,500
    # names; 4,000 videos of 300 frames would take hours.
    paths = [f"video{i:04d}/{frame:06d}.jpg" for i in range(250) for frame in range(10)]
    assert match(paths, paths) == list(range(len(paths)))
