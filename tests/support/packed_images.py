"""Tar and zip files made in memory, and the bytes that a storage fetches from them."""

import io
import os
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np

from sppfeat.files.places import Place, unpack


def tar_bytes(members, format_=tarfile.GNU_FORMAT) -> bytes:
    """A tar file of names and contents; a TarInfo in place of a content is a member without data."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=format_, errors="surrogateescape") as tar:
        for name, content in members:
            header = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            header.name = name
            if content is header:
                tar.addfile(header)
            else:
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
    return packed.getvalue()


def zip_bytes(members, *packings, force_zip64=False) -> bytes:
    """A zip file of names and contents, compressed by each packing in turn; stored without packings."""
    packings = packings or (zipfile.ZIP_STORED,)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about duplicate names
        for i, (name, content) in enumerate(members):
            header = zipfile.ZipInfo(name)
            header.compress_type = packings[i % len(packings)]
            with archive.open(header, "w", force_zip64=force_zip64) as member:
                member.write(content)
    return packed.getvalue()


def bytes_at(place: Place) -> bytes:
    content = Path(os.fsdecode(place.path)).read_bytes()[place.offset :][: place.nbytes]
    return content if place.unpacked_nbytes is None else unpack(content, place.unpacked_nbytes)


def fetched(storage, images, scratch) -> list[bytes | str]:
    """Bytes of images, or the reasons of failures; checks that the scratch folder is empty afterwards."""
    scratch.mkdir(exist_ok=True)
    with storage.fetch(np.array(images, dtype=np.int64), scratch) as places:
        contents = [place if isinstance(place, str) else bytes_at(place) for place in places]
    assert os.listdir(scratch) == []
    return contents
