"""Outputs with a URL: written locally, uploaded when complete, and the leftovers of failures."""

import json
import os

import pytest
from flaky_server import Fault
from object_store import ATTEMPTS
from packages import need_packages

from sppfeat.errors import ConfigError, SourceError, StoreError
from sppfeat.files.outputs import replacement_of
from sppfeat.files.remote import url_of
from sppfeat.files.remote.output import local_output

need_packages("s3fs", "moto")

URL = "s3://bucket/out/features.h5"
KEY = "out/features.h5"


@pytest.fixture
def store(store):
    store.put({})
    return store


@pytest.fixture
def scratch(tmp_path):
    return tmp_path / "scratch"


@pytest.fixture
def small_parts(monkeypatch):
    """Makes moto accept parts that are too small for S3."""
    import s3fs

    monkeypatch.setattr(s3fs.core, "calculate_chunksize", lambda *_, **__: 1000)
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1)


def make(scratch, content=b"the features", url=URL, **options):
    """Writes the file unless it exists, and publishes it, as a command does."""
    with local_output(url, scratch=scratch, **options) as local:
        if not local.path.exists() or local.path.read_bytes() != content:
            local.path.write_bytes(content)
        local.publish()
        return local


def left_in(scratch):
    return sorted(path.name for path in scratch.iterdir()) if scratch.exists() else []


# --- URLs and paths --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "url"),
    [
        ("s3://b/x.h5", "s3://b/x.h5"),
        ("s3:/b/x.h5", "s3://b/x.h5"),  # what pathlib makes of it
        ("file:///tmp/x.h5", "file:///tmp/x.h5"),
        ("file:/tmp/x.h5", "file:///tmp/x.h5"),
        ("x.h5", None),
        ("/a/b:c/x.h5", None),
        ("./s3:/x.h5", None),
        ("s3:x", None),
        ("a b://x", None),
    ],
)
def test_urls_are_told_from_paths(output, url):
    assert url_of(output) == url


def test_a_path_is_unchanged(tmp_path):
    with local_output(tmp_path / "a.h5") as local:
        assert (local.path, local.url, local.notes) == (tmp_path / "a.h5", None, [])
        local.path.write_bytes(b"x")
        local.publish()
    assert (tmp_path / "a.h5").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("https://host/x.h5", ConfigError, "'https://host/x.h5' is read-only"),
        ("s3://bucket", ConfigError, "is a bucket"),
        (
            "s3://no-bucket/x.h5",
            SourceError,
            "cannot write 's3://no-bucket/x.h5': the server says 404 NoSuchBucket",
        ),
        ("s3://k:secret@bucket/x.h5", ConfigError, "has a password"),
        ("s3://bucket/folder", StoreError, "is a folder"),
    ],
)
def test_outputs_that_are_refused(store, scratch, url, error, message):
    store.put({"folder/x": b""})
    with pytest.raises(error, match=message), local_output(url, scratch=scratch):
        pass
    assert left_in(scratch) == []


@pytest.mark.parametrize(
    ("fault", "message", "n_asked"),
    [
        (Fault(403, "POST /bucket/out/features.h5"), "'s3://bucket/out/features.h5': permission denied", 1),
        (Fault("drop"), "'s3://bucket", ATTEMPTS),
    ],
)
def test_an_unwritable_url_is_refused_before_the_run(store, scratch, fault, message, n_asked):
    store.server.faults = [fault]
    with pytest.raises(SourceError, match=f"cannot write {message}"):
        make(scratch)
    assert len(store.server.asked) >= n_asked
    assert left_in(scratch) == []


def test_a_dry_run_makes_no_request(store, scratch):
    with local_output(URL, scratch=scratch, dry_run=True) as local:
        assert not local.path.exists()
        local.publish()
    assert store.server.asked == []
    assert not scratch.exists()


# --- written and uploaded ----------------------------------------------------------------------------


def test_an_uploaded_file_is_removed_locally(store, scratch):
    local = make(scratch)
    assert store.keys() == {KEY: b"the features"}
    assert left_in(scratch) == []
    assert local.notes == [f"writing {str(local.path)!r}; it will be uploaded to '{URL}' when it is complete"]
    assert scratch.stat().st_mode & 0o777 == 0o700
    assert store.n_unfinished == 0


def test_the_default_scratch_folder_is_in_the_cache_folder(store, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with local_output(URL) as local:
        assert local.path.parent == tmp_path / "cache" / "sppfeat" / "uploads"
        assert local.path.name.endswith("-features.h5")
    with local_output("s3://bucket/other/features.h5") as other:
        assert other.path != local.path


@pytest.mark.parametrize("failure", [500, 503, "drop"])
def test_a_failed_upload_is_retried(store, scratch, small_parts, failure):
    content = os.urandom(5500)
    store.server.faults = [Fault(failure, "partNumber=3", times=2), Fault(failure, "HEAD", times=1)]
    make(scratch, content)
    assert store.keys() == {KEY: content}
    assert store.n_unfinished == 0


@pytest.mark.slow
@pytest.mark.parametrize("where", ["partNumber=3", "POST .*uploadId"])
def test_a_failed_upload_keeps_the_local_file_and_leaves_no_object(store, scratch, small_parts, where):
    content = os.urandom(5500)
    store.server.faults = [Fault(500, where)]
    with pytest.raises(SourceError, match=r"500 InternalError; the complete file is '.*repeat the command"):
        make(scratch, content)
    assert store.keys() == {}
    assert store.n_unfinished == 0
    store.server.faults = []
    with local_output(URL, scratch=scratch) as local:
        assert local.path.read_bytes() == content
        local.publish()
    assert store.keys() == {KEY: content}
    assert left_in(scratch) == []


def test_an_interrupted_upload_leaves_no_object(store, scratch, small_parts):
    with local_output(URL, scratch=scratch) as local:
        local.path.write_bytes(bytes(5500))
        store.server.on_request = lambda line: "partNumber=3" in line and local._service.cancel()
        with pytest.raises(SourceError, match="cancelled"):
            local.publish()
    assert store.keys() == {}
    assert store.n_unfinished == 0


def test_a_truncated_upload_keeps_the_local_file(store, scratch, monkeypatch):
    with local_output(URL, scratch=scratch) as local:
        local.path.write_bytes(b"the features")
        true_ask = type(local._service).ask
        monkeypatch.setattr(
            type(local._service),
            "ask",
            lambda self, method, *rest: {**true_ask(self, method, *rest), "size": 3},
        )
        with pytest.raises(SourceError, match="only 3 of 12 bytes arrived"):
            local.publish()
        assert local.path.exists()


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_other_file_systems(scratch, tmp_path, scheme):
    import fsspec

    (tmp_path / "there").mkdir()
    url = f"file://{tmp_path}/there/x.h5" if scheme == "file" else "memory://there/x.h5"
    for content in (b"one", b"another"):
        make(scratch, content, url=url, overwrite=True)
        with fsspec.open(url) as file:
            assert file.read() == content
        fs, path = fsspec.url_to_fs(url)
        assert [os.path.basename(name) for name in fs.ls(os.path.dirname(path), detail=False)] == ["x.h5"]
    assert left_in(scratch) == []


# --- continued ------------------------------------------------------------------------------------


def test_an_interrupted_run_is_continued(store, scratch):
    with local_output(URL, scratch=scratch) as local:
        local.path.write_bytes(b"half")
    assert store.keys() == {}
    (record,) = scratch.glob("*.json")  # with nothing secret
    assert json.loads(record.read_text()) == {"url": URL, "found": None}
    with local_output(URL, scratch=scratch) as local:
        assert local.path.read_bytes() == b"half"
        assert "continuing" in local.notes[0]
        local.path.write_bytes(b"whole")
        local.publish()
    assert store.keys() == {KEY: b"whole"}


def test_a_finished_file_is_fetched_and_uploaded_if_it_changes(store, scratch):
    make(scratch)
    store.server.asked.clear()
    with local_output(URL, scratch=scratch) as local:
        assert local.path.read_bytes() == b"the features"
        assert "downloading it" in local.notes[0]
        local.publish()
    assert not any(line.startswith("PUT") for line in store.server.asked)
    assert left_in(scratch) == []
    with local_output(URL, scratch=scratch) as local:
        local.path.write_bytes(b"more features")
        local.publish()
    assert store.keys() == {KEY: b"more features"}


def test_a_fetched_file_without_changes_is_removed(store, scratch):
    make(scratch)
    with pytest.raises(ZeroDivisionError), local_output(URL, scratch=scratch):
        1 / 0  # noqa: B018 - such as other settings than those of the file
    assert left_in(scratch) == []


def test_an_object_of_another_writer_is_not_replaced(store, scratch):
    with local_output(URL, scratch=scratch) as local:
        local.path.write_bytes(b"mine")
        store.put({KEY: b"theirs"})
        with pytest.raises(StoreError, match=r"written by another process.*complete file is"):
            local.publish()
    with (
        pytest.raises(StoreError, match="written by another process since"),
        local_output(URL, scratch=scratch),
    ):
        pass
    assert store.keys() == {KEY: b"theirs"}
    make(scratch, b"mine", overwrite=True)
    assert store.keys() == {KEY: b"mine"}


@pytest.mark.slow
def test_overwrite_replaces_the_object_only_at_the_end(store, scratch):
    make(scratch, b"old")
    with local_output(URL, scratch=scratch, overwrite=True) as local:
        # As an extraction does: next to the existing file, and continued there.
        assert local.path.exists()
        replacement_of(local.path).write_bytes(b"half of the new")
    assert store.keys() == {KEY: b"old"}
    with local_output(URL, scratch=scratch, overwrite=True) as local:
        assert replacement_of(local.path).read_bytes() == b"half of the new"
        os.replace(replacement_of(local.path), local.path)
        local.path.write_bytes(b"new")
        store.server.faults = [Fault(500, "PUT")]
        with pytest.raises(SourceError, match="complete"):
            local.publish()
    assert store.keys() == {KEY: b"old"}
    store.server.faults = []
    with local_output(URL, scratch=scratch, overwrite=True) as local:
        assert local.path.exists()
        assert replacement_of(local.path).read_bytes() == b"new"
        os.replace(replacement_of(local.path), local.path)
        local.publish()
    assert store.keys() == {KEY: b"new"}
    assert left_in(scratch) == []


def test_leftovers_of_an_overwriting_run_do_not_hinder_the_next_run(store, scratch):
    make(scratch, b"old")
    with local_output(URL, scratch=scratch, overwrite=True) as local:
        replacement_of(local.path).write_bytes(b"half of the new")
    with local_output(URL, scratch=scratch) as local:
        assert local.path.read_bytes() == b"old"


def test_a_command_that_continues_nothing(store, scratch):
    make(scratch, b"old", continues=False)
    with pytest.raises(
        StoreError, match=r"'s3://bucket/out/features.h5' exists; add --overwrite to replace it"
    ):
        make(scratch, b"new", continues=False)
    with local_output(URL, scratch=scratch, overwrite=True, continues=False) as local:
        local.path.write_bytes(b"interrupted")
    with local_output(URL, scratch=scratch, overwrite=True, continues=False) as local:
        assert not local.path.exists()
        local.path.write_bytes(b"new")
        local.publish()
    assert store.keys() == {KEY: b"new"}
    assert left_in(scratch) == []


def test_a_second_writer_is_refused(store, scratch):
    with (
        local_output(URL, scratch=scratch),
        pytest.raises(StoreError, match="another process is writing"),
        local_output(URL, scratch=scratch),
    ):
        pass
