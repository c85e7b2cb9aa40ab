"""Images in object stores and on servers: listed like folders, fetched, and the failures of both."""

import contextlib
import functools
import os
import pickle
import re
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from flaky_server import Fault, FlakyServer
from hypothesis import given
from hypothesis import strategies as st
from object_store import ATTEMPTS, hurry
from packages import need_packages

from sppfeat.errors import ConfigError, SourceError
from sppfeat.files.paths import PathTable, walk_order
from sppfeat.files.places import Place
from sppfeat.files.remote import check_url, objects, shown
from sppfeat.files.remote.service import N_TRANSFERS
from sppfeat.inputs import list_images
from sppfeat.inputs.remote import read_remote

need_packages("s3fs", "moto")

TREE = [
    "x10/im10.jpg",
    "x10/im9.JPG",
    "x2/deep/er/1.png",
    "x2/deep.jpg",
    "x2/im1.jpg",
    "X3/a b+c%20d=é.jpg",
    "x2.jpg",
    "img10.jpg",
    "img2.jpg",
    "notes.txt",
    ".hidden/1.jpg",
    "x2/.hidden.jpg",
]


@pytest.fixture
def server(store):
    """The proxy in front of the store, which can fail."""
    return store.server


def contents(names) -> dict[str, bytes]:
    return {name: f"content of {name}".encode() for name in names}


def listed(*inputs, **options):
    return [os.fsdecode(path) for path in list_images(inputs, **options).paths]


@contextlib.contextmanager
def fetched(listing, scratch, images=None):
    images = np.arange(len(listing.paths)) if images is None else np.array(images, dtype=np.int64)
    with listing.storage.fetch(images, scratch) as places:
        yield [place if isinstance(place, str) else read(place) for place in places]


def read(place: Place) -> bytes:
    with open(place.path, "rb") as file:
        file.seek(place.offset)
        return file.read(place.nbytes)


# --- listing --------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    for name in TREE:
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"content of {name}".encode())
    return tmp_path / "folder"


@pytest.mark.slow
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_prefix_is_listed_like_a_folder(store, folder, slash):
    store.put({f"top/sub/{name}": content for name, content in contents(TREE).items()})
    store.put({"top/sub/": b"", "top/sub/x2/": b"", "top/subway/1.jpg": b""})  # marks of folders; a neighbor
    listing, on_disk = list_images([f"s3://bucket/top/sub{slash}"]), list_images([str(folder)])
    assert listing.root == b"s3://bucket/top/sub"
    assert list(listing.paths) == list(on_disk.paths)
    assert listing.n_other_files == on_disk.n_other_files == 1
    assert listing.storage.sizes.tolist() == [
        len(f"content of {os.fsdecode(name)}".encode()) for name in listing.paths
    ]


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_other_file_systems_list_alike(folder, scheme, tmp_path):
    top = f"file://{folder}"
    if scheme == "memory":
        import fsspec

        memory = fsspec.filesystem("memory")
        memory.put(str(folder), "/top/sub", recursive=True)
        top = "memory://top/sub"
    listing, on_disk = list_images([top]), list_images([str(folder)])
    assert listing.root == os.fsencode(top)
    assert list(listing.paths) == list(on_disk.paths)
    assert listing.n_other_files == on_disk.n_other_files
    with fetched(listing, tmp_path) as found:
        assert found == [f"content of {os.fsdecode(name)}".encode() for name in listing.paths]


@pytest.fixture
def web(folder, monkeypatch):
    """The port of a web server with the folder, and a proxy in front of it that can fail."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    hurry(monkeypatch)

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Handler, directory=folder.parent)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as upstream:
        threading.Thread(target=upstream.serve_forever, args=(0.01,)).start()
        flaky = FlakyServer(upstream.server_port)
        yield flaky
        flaky.close()
        upstream.shutdown()


def test_a_web_server_is_listed_by_the_links_on_its_pages(folder, tmp_path, web):
    listing = list_images([f"{web.url}/folder/"])
    assert len(listing.paths) == len(list_images([str(folder)]).paths)
    with fetched(listing, tmp_path) as found:
        images = [name for name in TREE if "/." not in f"/{name}" and not name.endswith("txt")]
        assert sorted(found) == sorted(contents(images).values())


def test_urls_on_a_web_server_are_objects_whatever_their_suffix(tmp_path, web):
    with fetched(list_images([f"{web.url}/folder/notes.txt"]), tmp_path) as found:
        assert found == [b"content of notes.txt"]


def test_objects_named_individually_are_inputs_whatever_their_suffix(store, tmp_path):
    store.put(contents(["a/1.jpg", "a/blob", "b/2.jpg"]))
    listing = list_images(
        ["s3://bucket/a/blob", "s3://bucket/b/2.jpg", "s3://bucket/a/1.jpg", "s3://bucket/b"]
    )
    assert listing.root == b"s3://bucket"
    assert list(listing.paths) == [b"a/blob", b"b/2.jpg", b"a/1.jpg"]
    assert listing.n_repeated == 1
    with fetched(listing, tmp_path, [2, 0, 1]) as found:
        assert found == [b"content of a/1.jpg", b"content of a/blob", b"content of b/2.jpg"]


def test_urls_in_lists(store, tmp_path):
    store.put(contents(["a/1.jpg", "b/2.jpg"]))
    (tmp_path / "list").write_text("s3://bucket/b\ns3://bucket/a/1.jpg\n")
    assert listed(f"@{tmp_path}/list") == ["b/2.jpg", "a/1.jpg"]
    assert listed("-", stdin=[b"s3://bucket/a/\0"]) == ["1.jpg"]


def test_a_hundred_thousand_urls_are_one_segment_without_any_request(server):
    urls = [b"s3://bucket/%d.jpg" % i for i in range(5000)]
    (segment,) = read_remote(iter(urls))
    assert len(segment.names) == 5000
    nbytes = segment.storage.names.nbytes + segment.storage.sizes.nbytes
    assert nbytes == 8 + sum(16 + len(url) for url in urls)
    assert server.asked == []


def test_remote_and_local_inputs_have_no_common_root(store, folder):
    store.put(contents(["1.jpg"]))
    with pytest.raises(ConfigError, match="without a common root"):
        list_images(["s3://bucket", str(folder)])


@pytest.mark.slow
def test_all_pages_of_a_list_are_read_and_a_failed_one_is_retried(store, server):
    names = [f"{i % 7}/{i}.jpg" for i in range(2500)]
    store.put(dict.fromkeys(names, b"x"))
    server.faults = [Fault(503, "continuation-token", times=1), Fault("drop", "continuation-token", times=1)]
    assert sorted(listed("s3://bucket")) == sorted(names)
    assert sum("list-type=2" in line and "max-keys" not in line for line in server.asked) == 3 + 2
    server.faults = [Fault(500, "continuation-token")]
    with pytest.raises(SourceError, match=r"cannot list 's3://bucket': the server says 500 InternalError"):
        list_images(["s3://bucket"])
    assert len(server.faults[0].seen) == ATTEMPTS
    server.faults = [Fault(403, "list-type=2")]
    with pytest.raises(SourceError, match=r"cannot list 's3://bucket/a': permission denied"):
        list_images(["s3://bucket/a/"])


@pytest.mark.parametrize(
    "url", ["s3://bucket/nothing", "s3://bucket/nothing/", "s3://no-bucket", "s3://no-bucket/x"]
)
def test_missing_objects_and_buckets(store, url):
    store.put(contents(["1.jpg"]))
    with pytest.raises(ConfigError, match=r"no such object or folder: 's3://"):
        list_images([url])


@given(
    st.lists(
        st.lists(
            st.sampled_from(["a", "a1", "A01", "a10", "b-", "b.", "b", "10", "9", "é"]),
            min_size=1,
            max_size=4,
        ).map(tuple),
        unique=True,
        max_size=30,
    ),
    st.randoms(),
)
def test_the_order_is_that_of_a_walk(paths, random):
    files = {(*parts[:-1], f"{parts[-1]}.jpg") for parts in paths}
    tree: dict = {}
    for parts in files:
        inner = tree
        for part in parts[:-1]:
            inner = inner.setdefault(part, {})
        inner[parts[-1]] = None

    def walk(inner, above):
        from sppfeat.files.paths import natural_key

        for name in sorted(inner, key=lambda name: natural_key(name.encode())):
            if inner[name] is None:
                yield above + name
            else:
                yield from walk(inner[name], f"{above}{name}/")

    expected = [name.encode() for name in walk(tree, "")]
    for names in (sorted(expected), random.sample(expected, len(expected))):
        table = PathTable(names)
        assert [table[i] for i in walk_order(table)] == expected


# --- URLs that are not allowed --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://key:s3cr3t@bucket/a", "has a password"),
        ("ftp://me:s3cr3t@x@host/a", "has a password"),
        ("https://host/a.jpg?X-Amz-Signature=s3cr3t", "query"),
        ("https://host/a.jpg#s3cr3t", "query"),
        ("s3://", "names no object"),
        ("s3://bucket//a", "empty parts"),
        ("s3://bucket/../a", "empty parts"),
        ("sptp://host/a", "fsspec does not support"),
        ("gs://bucket/a", "needs the package gcsfs, which is not installed: pip install gcsfs"),
    ],
)
def test_urls_that_are_refused(url, message):
    if "gcsfs" in message:
        with contextlib.suppress(ImportError):
            import gcsfs  # noqa: F401

            pytest.skip("gcsfs is installed")
    with pytest.raises(ConfigError, match=message) as caught:
        list_images([url])
    assert "s3cr3t" not in str(caught.value)


def test_urls_are_normalized():
    assert check_url("S3://bucket/a/b//") == "s3://bucket/a/b"
    assert check_url("s3://bucket/a?b#c.jpg") == "s3://bucket/a?b#c.jpg"
    assert check_url("file:///tmp/a") == "file:///tmp/a"
    assert shown("https://me:p@host/a?b") == "'https://...@host/a?...'"


def test_fsspec_is_not_installed(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(
        ConfigError, match=r"s3:// URLs needs the package fsspec.*pip install 'sppfeat\[remote\]'"
    ):
        list_images(["s3://bucket/a"])


# --- fetching -------------------------------------------------------------------------------------


def images_in_bucket(store, n=60):
    kept = {f"{i:03d}.jpg": os.urandom(1000 + i) for i in range(n)}
    store.put(kept)
    return list_images(["s3://bucket"]), list(kept.values())


def impatient(monkeypatch):
    """Makes s3fs time out after half a second."""
    import s3fs

    monkeypatch.setattr(s3fs.S3FileSystem, "read_timeout", 0.5)
    monkeypatch.setattr(s3fs.S3FileSystem, "cachable", False)  # no connection of another test


@pytest.mark.slow
def test_fetched_objects_are_removed_after_use(store, server, tmp_path):
    listing, expected = images_in_bucket(store)
    server.asked.clear()
    with fetched(listing, tmp_path, [3, 50, 4]) as found:
        assert found == [expected[3], expected[50], expected[4]]
    assert list(tmp_path.iterdir()) == []
    assert len(server.asked) == 3
    with fetched(listing, tmp_path) as found:
        assert found == expected
    assert server.n_most <= N_TRANSFERS
    with fetched(listing, tmp_path, []) as found:
        assert found == []


@pytest.mark.slow
@pytest.mark.parametrize("failure", [500, 502, 503, 504, 429, "drop", "cut"])
def test_temporary_failures_are_retried(store, server, tmp_path, failure):
    listing, expected = images_in_bucket(store, 20)
    server.faults = [Fault(failure, r"GET /bucket/00[37].jpg", times=2)]
    with fetched(listing, tmp_path) as found:
        assert found == expected
    assert len(server.faults[0].seen) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failure", "message", "tries"),
    [
        (404, "no such object", 1),
        (403, "permission denied", 1),
        (500, "the server says 500 InternalError", ATTEMPTS),
        (503, "the server says 503 SlowDown", ATTEMPTS),
        ("drop", "Server disconnected|Connection was closed", ATTEMPTS),
        ("cut", "ClientPayloadError", ATTEMPTS),
    ],
)
def test_failures_of_a_single_object_have_a_reason(store, server, tmp_path, failure, message, tries):
    listing, expected = images_in_bucket(store, 20)
    server.faults = [Fault(failure, r"GET /bucket/007.jpg")]
    with fetched(listing, tmp_path) as found:
        assert isinstance(found[7], str)
        assert re.search(message, found[7])
        assert len(found[7].encode()) <= 200
        assert "secret" not in found[7]
        del found[7], expected[7]
        assert found == expected
    # aiohttp asks again if a kept connection is closed instead of answered.
    assert tries <= len(server.faults[0].seen) <= (2 * tries if failure == "drop" else tries)


@pytest.mark.slow
def test_a_silent_server_times_out(store, server, tmp_path, monkeypatch):
    impatient(monkeypatch)
    listing, expected = images_in_bucket(store, 4)
    server.faults = [Fault("hang", r"GET /bucket/001.jpg", times=1), Fault("hang", r"GET /bucket/002.jpg")]
    with fetched(listing, tmp_path) as found:
        assert found[:2] == expected[:2]
        assert "ReadTimeoutError" in found[2]
        assert found[3] == expected[3]


@pytest.mark.slow
def test_the_last_image_fails_alone_if_the_service_still_answers(store, server, tmp_path):
    listing, _ = images_in_bucket(store, 3)
    server.faults = [Fault("drop", "/bucket/002.jpg")]
    with fetched(listing, tmp_path, [2]) as found:
        assert isinstance(found[0], str)
    server.faults = [Fault("drop", "/bucket/")]
    with pytest.raises(SourceError), fetched(listing, tmp_path, [2]):
        pass


def test_no_credentials(store, tmp_path, monkeypatch):
    import s3fs

    store.put(contents(["1.jpg"]))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(s3fs.S3FileSystem, "cachable", False)  # no connection of another test
    with pytest.raises(SourceError, match="NoCredentialsError"):
        list_images(["s3://bucket"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failure", "code", "message"),
    [
        *[
            (failure, "", r"cannot read 's3://bucket/0\d\d.jpg'.*after many attempts")
            for failure in (503, "drop", 500, "cut")
        ],
        *[(403, code, code) for code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken")],
        (403, "", "cannot read any of 20 objects, .*: permission denied"),
    ],
)
def test_a_run_ends_if_no_object_can_be_fetched(store, server, tmp_path, failure, code, message):
    listing, _ = images_in_bucket(store, 20)
    server.faults = [Fault(failure, "GET /bucket/", code=code)]
    with pytest.raises(SourceError, match=message) as caught, fetched(listing, tmp_path):
        pass
    assert "secret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    server.faults = []
    with fetched(listing, tmp_path) as found:  # and goes on when it is back
        assert not any(isinstance(content, str) for content in found)


def test_two_forbidden_objects_do_not_end_the_run(store, server, tmp_path):
    listing, _ = images_in_bucket(store, 20)
    server.faults = [Fault(403, "GET /bucket/")]
    with fetched(listing, tmp_path, [1, 2]) as found:
        assert found == ["permission denied"] * 2


@pytest.mark.parametrize("n_bytes", [0, 10, 5000])
def test_a_changed_object_is_read_in_its_new_version(store, tmp_path, n_bytes):
    listing, _ = images_in_bucket(store, 3)
    content = os.urandom(n_bytes)
    store.put({"001.jpg": content})
    with fetched(listing, tmp_path) as found:
        assert found[1] == content


def test_an_oversized_object_fails_before_it_is_fetched(store, server, tmp_path, monkeypatch):
    listing, expected = images_in_bucket(store, 5)
    store.put({"001.jpg": os.urandom(1 << 20)})
    monkeypatch.setattr(objects, "LARGEST_OBJECT", 1003)
    with fetched(listing, tmp_path) as found:
        assert found[0] == expected[0]
        assert found[1] == f"the object has {1 << 20} bytes or more; allowed: 1003"
        assert found[4] == "the object has 1004 bytes or more; allowed: 1003"
    assert sum("001.jpg" in line for line in server.asked) == 1


def test_a_full_disk_ends_the_run(store, tmp_path, monkeypatch):
    listing, _ = images_in_bucket(store, 3)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(objects.os, "stat", full)
    with pytest.raises(SourceError, match=r"cannot write .*No space left"), fetched(listing, tmp_path):
        pass


@pytest.mark.slow
def test_failures_of_a_web_server(folder, tmp_path, web):
    names = [f"{i:03d}.jpg" for i in range(12)]
    for name, content in contents(names).items():
        (folder / name).write_bytes(content)
    listing = list_images([f"{web.url}/folder/{name}" for name in names])
    assert listing.root == os.fsencode(f"{web.url}/folder")
    web.faults = [
        Fault(404, "001.jpg"),
        Fault(403, "002.jpg"),
        Fault("cut", "003.jpg"),
        Fault(500, "004.jpg", times=2),
        Fault("drop", "005.jpg", times=2),
    ]
    with fetched(listing, tmp_path) as found:
        assert found[1:3] == ["no such object", "permission denied"]
        assert "ClientPayloadError" in found[3]
        assert found[4:] == list(contents(names[4:]).values())
    web.faults = [Fault("drop")]
    with pytest.raises(SourceError, match="cannot read 'http://127"), fetched(listing, tmp_path):
        pass


def test_a_storage_is_pickled_and_forked_without_its_connection(store, tmp_path):
    listing, expected = images_in_bucket(store, 3)
    with fetched(listing, tmp_path) as found:
        assert found == expected
    content = pickle.dumps(listing.storage)
    assert b"secret" not in content
    with pickle.loads(content).fetch(np.array([1]), tmp_path) as places:
        assert [read(place) for place in places] == [expected[1]]
    pid = os.fork()
    if pid == 0:
        try:
            with fetched(listing, tmp_path) as found:
                os._exit(0 if found == expected else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_fetch_can_be_cancelled_from_another_thread(store, server, tmp_path, monkeypatch):
    impatient(monkeypatch)
    listing, _ = images_in_bucket(store, 3)
    server.faults = [Fault("hang", "GET /bucket/")]
    asked = threading.Event()
    server.on_request = lambda line: asked.set()
    caught = []

    def fetch():
        try:
            with fetched(listing, tmp_path):
                pass
        except SourceError as error:
            caught.append(str(error))

    thread = threading.Thread(target=fetch)
    thread.start()
    assert asked.wait(20)
    listing.storage.cancel()
    thread.join(10)  # the server says nothing for 20 s
    assert caught == ["reading 's3://bucket' was cancelled"]
    assert list(tmp_path.iterdir()) == []
