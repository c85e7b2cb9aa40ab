"""Downloads: a file arrives complete and correct, or leaves nothing behind."""

import hashlib
import signal
import socket
import threading

import pytest

from sppfeat.errors import WeightsError
from sppfeat.files import downloads
from sppfeat.files.downloads import download

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def refuse(url, path, prefix=SHA256[:8]) -> str:
    """The message of a failed download, which leaves the folder as it was."""
    before = {found: found.read_bytes() for found in path.parent.glob("*")}
    with pytest.raises(WeightsError) as caught:
        download(url, path, sha256_prefix=prefix)
    assert {found: found.read_bytes() for found in path.parent.glob("*")} == before
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"cannot download {url} to {str(path)!r}: ")
    return message


@pytest.mark.parametrize("chunked", [False, True])
def test_a_download_creates_its_folder(weight_server, tmp_path, chunked):
    weight_server.files["w"] = CONTENT
    weight_server.chunked |= {"w"} if chunked else set()
    path = tmp_path / "a" / "b" / "w.pth"
    calls = []

    def on_progress(*call):
        calls.append(call)

    found = download(weight_server.url("w"), path, sha256_prefix=SHA256[:8], on_progress=on_progress)
    assert found == SHA256
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]
    assert calls[0] == ("w.pth", 0, None if chunked else len(CONTENT))
    assert calls[-1] == ("w.pth", len(CONTENT), len(CONTENT))
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)


def test_only_a_correct_download_replaces_an_existing_file(weight_server, tmp_path):
    weight_server.files["w"] = CONTENT
    path = tmp_path / "w.pth"
    path.write_bytes(b"before")
    refuse(weight_server.url("w"), path, "0" * 8)
    assert "the server says 404 Not Found" in refuse(weight_server.url("other"), path)
    download(weight_server.url("w"), path, sha256_prefix=SHA256)
    assert path.read_bytes() == CONTENT


def test_a_wrong_checksum_is_reported_with_the_expected_one(weight_server, tmp_path):
    weight_server.files["w"] = b"<html>Please log in</html>"
    found = hashlib.sha256(weight_server.files["w"]).hexdigest()
    message = refuse(weight_server.url("w"), tmp_path / "w.pth")
    assert f"SHA-256 {found}; expected: one that begins with {SHA256[:8]}" in message


@pytest.mark.parametrize(
    ("chunked", "reason"), [(False, f"ended after 1000 of {len(CONTENT)} bytes"), (True, "IncompleteRead")]
)
def test_a_transfer_that_breaks_off(weight_server, tmp_path, chunked, reason):
    weight_server.files["w"] = CONTENT
    weight_server.cut["w"] = 1000
    weight_server.chunked |= {"w"} if chunked else set()
    assert reason in refuse(weight_server.url("w"), tmp_path / "w.pth")


def test_an_unreachable_server(monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but it does not listen
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/w"
        assert "Connection refused" in refuse(url, tmp_path / "w.pth")


def test_a_silent_server_times_out(monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(downloads, "_TIMEOUT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/w"
        assert "timed out" in refuse(url, tmp_path / "w.pth")


def test_a_read_only_folder(weight_server, tmp_path):
    weight_server.files["w"] = CONTENT
    (tmp_path / "file").touch()
    url, path = weight_server.url("w"), tmp_path / "file" / "w.pth"
    with pytest.raises(WeightsError, match="File exists: "):
        download(url, path, sha256_prefix=SHA256)
    path = tmp_path / "taken.pth"
    path.mkdir()
    with pytest.raises(WeightsError, match="Is a directory"):
        download(url, path, sha256_prefix=SHA256)
    assert {found.name for found in tmp_path.iterdir()} == {"file", "taken.pth"}


def test_a_full_disk(weight_server, tmp_path, mount_disk):
    weight_server.files["w"] = CONTENT * 10
    disk = mount_disk(1)
    with pytest.raises(WeightsError, match="No space left on device"):
        download(weight_server.url("w"), disk / "w.pth", sha256_prefix="")
    assert list(disk.iterdir()) == []


def test_an_interrupted_download_leaves_nothing(weight_server, tmp_path):
    weight_server.files["w"] = CONTENT
    weight_server.cut["w"] = 1000
    here, released = threading.get_ident(), threading.Event()

    def interrupt() -> None:
        signal.pthread_kill(here, signal.SIGINT)
        released.wait(10)

    weight_server.on_cut = interrupt
    with pytest.raises(KeyboardInterrupt):
        download(weight_server.url("w"), tmp_path / "w.pth", sha256_prefix=SHA256)
    released.set()
    assert list(tmp_path.iterdir()) == []
