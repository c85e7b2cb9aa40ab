"""What members of archives are called."""

__all__ = ["encoded_name", "harmless_name", "is_hidden", "target_of"]


def harmless_name(name: str) -> bytes:
    """The name of a member, relative, without ``.``, ``..`` and repeated slashes: there is no way out of the archive.

    Args:
        name: as the archive has it; bytes that are not UTF-8 by ``surrogateescape``.

    Example:
        >>> harmless_name("./a//b.jpg"), harmless_name("/../../etc/x.jpg"), harmless_name("a/../b.jpg")
        (b'a/b.jpg', b'etc/x.jpg', b'b.jpg')
    """
    parts: list[bytes] = []
    for part in encoded_name(name).split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def is_hidden(name: bytes) -> bool:
    """Whether a scan passes over a member: hidden, or what macOS adds."""
    slashed = b"/" + name
    return b"/." in slashed or b"/__MACOSX/" in slashed


def target_of(link: bytes, folder: bytes) -> bytes | None:
    """The member that a link leads to; None where that is outside.

    Args:
        link: as the archive has it.
        folder: the folder that it starts from, a harmless name; empty for the top.

    Example:
        >>> target_of(b"../c.jpg", b"a/b"), target_of(b"../c.jpg", b""), target_of(b"/c.jpg", b"a")
        (b'a/c.jpg', None, None)
    """
    if link.startswith(b"/"):
        return None
    parts = folder.split(b"/") if folder else []
    for part in link.split(b"/"):
        if part == b"..":
            if not parts:
                return None
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def encoded_name(name: str) -> bytes:
    """A name as bytes, which no zero byte can be part of."""
    return name.partition("\0")[0].encode("utf-8", "surrogateescape")
