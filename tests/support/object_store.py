"""An in-memory S3 server in this process, behind a proxy that can fail."""

import contextlib
import functools
import logging
import os
from collections.abc import Iterator, Mapping

import botocore.session
import pytest
from flaky_server import FlakyServer

from sppfeat.files.remote import service

__all__ = ["ATTEMPTS", "ObjectStore", "hurry", "s3_server"]

ATTEMPTS = 4

_ACCOUNT = "123456789012"
_loader = functools.cache(botocore.session.create_loader)  # half a second of JSON for each client


@contextlib.contextmanager
def s3_server() -> Iterator[FlakyServer]:
    """Runs both servers; yields the proxy."""
    from moto.server import ThreadedMotoServer
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()  # clients of an earlier server
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    flaky = FlakyServer(server.get_host_and_port()[1])
    yield flaky
    flaky.close()
    server.stop()


def hurry(patch: pytest.MonkeyPatch) -> None:
    """Shortens the pauses between the ``ATTEMPTS`` attempts."""
    patch.setattr(service, "_DELAYS", (0.002,) * (ATTEMPTS - 1))


class ObjectStore:
    """The buckets of the server, with the environment set for its clients.

    Attributes:
        server: the proxy.
    """

    def __init__(self, server: FlakyServer, patch: pytest.MonkeyPatch) -> None:
        from moto.s3.models import s3_backends

        self.server = server
        self._backend = s3_backends[_ACCOUNT]["aws"]
        for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", self.server.url)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", "/nonexistent")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        patch.setenv("no_proxy", "127.0.0.1")
        hurry(patch)
        patch.setattr(botocore.session, "create_loader", _loader)

    def close(self) -> None:
        """Empties every bucket and clears the faults."""
        self.server.reset()
        for bucket in self._backend.buckets.values():
            bucket.keys.clear()

    def put(self, objects: Mapping[str, bytes], bucket: str = "bucket") -> None:
        """Stores objects by their keys."""
        if bucket not in self._backend.buckets:
            self._backend.create_bucket(bucket, "us-east-1")
        for key, content in objects.items():
            self._backend.put_object(bucket, key, content)

    def delete(self, key: str, bucket: str = "bucket") -> None:
        """Removes an object."""
        self._backend.buckets[bucket].keys.pop(key)

    def keys(self, bucket: str = "bucket") -> dict[str, bytes]:
        """The stored objects by their keys."""
        return {name: key.value for name, key in self._backend.buckets[bucket].keys.items()}

    @property
    def n_unfinished(self) -> int:
        """The number of multipart uploads neither completed nor aborted."""
        return sum(len(bucket.multiparts) for bucket in self._backend.buckets.values())
