"""Coverage-guided fuzzing of image files: only ImageError is raised, within limits of time and memory.

Needs ``pip install atheris`` (3.0; not part of the test extra) and runs by hand, never under pytest::

    python tests/fuzz/fuzz_images.py                            # every format, until Ctrl-C
    python tests/fuzz/fuzz_images.py TIFF -max_total_time=300   # one of --formats, five minutes

Options with one dash are libFuzzer's (``-runs=``, ``-jobs=``, ``-max_total_time=``, ``-artifact_prefix=``).
Pillow makes the seeds. A finding is a Python exception, with its input written to ``crash-*``: name that file to run it
again. Report a crash inside a C library (SIGSEGV) to that library; in an extraction it kills a worker process and fails
one image. JPEG 2000 files of tiny precincts are known to take gigabytes.
"""

import io
import itertools
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "support"))

SECONDS = 5.0
MEBIBYTES = 600
MAX_PIXELS = 4_000_000  # so that legal pixels take little of the time and memory allowed
LONGEST_INPUT = 4096

# Pillow's name: (modes, options of Image.save). Each pair that Pillow can write makes a seed.
SEEDS = {
    "JPEG": (("L", "RGB", "CMYK"), ({}, {"progressive": True, "subsampling": 0}, {"restart_marker_rows": 1})),
    "MPO": (("RGB",), ({"save_all": True},)),
    "PNG": (("1", "L", "LA", "I;16", "P", "RGB", "RGBA"), ({}, {"transparency": 0}, {"save_all": True})),
    "WEBP": (("RGB", "RGBA"), ({}, {"lossless": True}, {"save_all": True})),
    "GIF": (("L", "P"), ({}, {"interlace": 0}, {"save_all": True}, {"transparency": 1})),
    "TIFF": (
        ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I;16B"),
        (
            *(
                {"compression": name}
                for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
            ),
            *({"compression": name} for name in ("group3", "group4", "tiff_ccitt")),
            {"big_tiff": True},
            {"save_all": True, "strip_size": 64},
        ),
    ),
    "BMP": (("1", "L", "P", "RGB", "RGBA"), ({},)),
    "DIB": (("RGB",), ({},)),
    "JPEG2000": (
        ("L", "LA", "RGB", "RGBA", "YCbCr", "I;16"),
        ({}, {"irreversible": True, "no_jp2": True}, {"tile_size": (8, 8)}, {"num_resolutions": 2}),
    ),
    "AVIF": (("RGB", "RGBA"), ({}, {"speed": 10})),
    "PPM": (("1", "L", "RGB", "I;16", "RGBA"), ({},)),
    "SGI": (("L", "RGB", "RGBA"), ({}, {"bpc": 2})),
    "PCX": (("1", "L", "P", "RGB"), ({},)),
    "TGA": (("1", "L", "LA", "P", "RGB", "RGBA"), ({}, {"compression": "tga_rle"})),
}
BY_HAND = {
    "PPM": (b"P1 3 2\n1 0 1 0 1 0\n", b"P2 3 1 6\n0 3 6\n", b"P3 1 1 9\n1 2 3\n", b"P5 2 1 4095\n\1\2\3\4",
            b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n\1\2\3", b"P6 #c\n1 1 255\n\1\2\3"),
}  # fmt: skip


def seeds(formats: Sequence[str]) -> Iterator[bytes]:
    """Yield small files of every format, mode and way of writing that this Pillow has."""
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.effect_noise((19, 14), 90).convert("RGB")
    for name in formats:
        for mode, options in itertools.product(*SEEDS[name]):
            if options.get("save_all"):
                options = options | {"append_images": [picture.convert(mode).rotate(180)]}
            for more in ({}, {"exif": exif.tobytes(), "icc_profile": b"none", "dpi": (72, 72)}):
                buffer = io.BytesIO()
                try:
                    image = (
                        picture.convert("L").convert(mode)
                        if mode.startswith("I;16")
                        else picture.convert(mode)
                    )
                    image.save(buffer, name, **options, **more)
                except (OSError, ValueError, KeyError, SystemError, TypeError):  # not one that Pillow writes
                    continue
                yield buffer.getvalue()
        yield from BY_HAND.get(name, ())


def peak_mebibytes() -> float:
    """The peak memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 1024**2


def make_check(path: str) -> Callable[[bytes], None]:
    """The function to fuzz, which writes each input to ``path``."""
    from sppfeat.decoding.images import decode_image, probe_image
    from sppfeat.errors import ImageError

    start = peak_mebibytes()

    def check(content: bytes) -> None:
        started = time.process_time()
        with open(path, "wb") as file:
            file.write(content)
        for exif in ("apply", "ignore"):
            try:
                size = probe_image(path, exif=exif, max_pixels=MAX_PIXELS)
            except ImageError as error:
                check_reason(str(error))
                continue
            settings = {"exif": exif, "image_hw": size, "input_hw": (5, 7), "max_pixels": MAX_PIXELS}
            try:  # pixels of another size than the header are a finding
                decode_image(path, resample="box", decode="exact", **settings)
                decode_image(path, resample="box", decode="fast", **settings)
            except ImageError as error:
                check_reason(str(error))
                if "its pixels are" in str(error) or "changed since" in str(error):
                    raise AssertionError(f"two sizes: {size} and {error}") from error
        seconds, grown = time.process_time() - started, peak_mebibytes() - start
        if seconds > SECONDS:
            raise AssertionError(f"{len(content)} bytes took {seconds:.1f} s")
        if grown > MEBIBYTES:
            raise AssertionError(f"{len(content)} bytes took {grown:.0f} MiB")

    return check


def check_reason(reason: str) -> None:
    """Checks that a reason fits in one line of a report."""
    if not (0 < len(reason) < 300 and reason.isprintable()):
        raise AssertionError(f"not a reason: {reason!r}")


def main() -> None:
    """Fuzz the formats named on the command line, all by default."""
    import atheris

    with atheris.instrument_imports(include=["PIL", "sppfeat.decoding"]):
        from PIL import Image

        import sppfeat.decoding.images  # noqa: F401 - after instrumentation starts

        Image.init()  # all formats
    from image_bytes import with_right_checksums

    def mutate(content: bytes, max_size: int, seed: int) -> bytes:
        content = atheris.Mutate(content, max_size)
        return with_right_checksums(content)[:max_size] if content[:4] == b"\x89PNG" and seed % 4 else content

    formats = [name for name in sys.argv[1:] if name in SEEDS]
    arguments = [argument for argument in sys.argv if argument not in formats]
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        corpus = Path(folder, "corpus")
        corpus.mkdir()
        for i, content in enumerate(seeds(formats or list(SEEDS))):
            (corpus / f"seed{i:03}").write_bytes(content)
        if not any(os.path.isfile(argument) for argument in arguments[1:]):  # crash files to run once
            arguments += [str(corpus), f"-max_len={LONGEST_INPUT}", "-rss_limit_mb=0", "-timeout=60"]
            arguments += ["-close_fd_mask=2"]  # silences C libraries
        child = os.fork()  # libFuzzer ends its process without cleaning up
        if not child:
            atheris.Setup(arguments, make_check(os.path.join(folder, "input")), custom_mutator=mutate)
            atheris.Fuzz()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main()
