"""Parses XML from other software, element by element, with errors that name the line."""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any
from xml.parsers import expat

from sppfeat.boxes.formats.annotation_files import AnnotationFile
from sppfeat.files.tables import OTHER_ENCODING, shorten

__all__ = ["parse_xml"]

_DECLARED = re.compile(rb"\s*<\?xml[^>]*\bencoding\b")


def parse_xml(
    file: AnnotationFile,
    content: bytes,
    *,
    root: str,
    start: Callable[[str, Mapping[str, str], int], Any],
    end: Callable[[str], Any] | None = None,
    text: Callable[[str], Any] | None = None,
) -> None:
    """Parse the content of a file whose outermost element is ``root``.

    ``start`` takes the tag, the attributes and the line of each element, ``end`` its tag, and ``text`` the characters
    between tags. XML without a declared encoding is in the file's. Raises BoxError if the XML is malformed, declares
    a document type, or has another root.
    """
    is_declared = _DECLARED.match(content) is not None
    parser = expat.ParserCreate(None if is_declared else file.encoding)
    n_elements = 0

    def refuse(doctype: str, *_: object) -> None:
        # Without a document type, no entity can expand a thousandfold or fetch another file.
        found = f"found a DOCTYPE of {shorten(doctype)}"
        raise file.error(f"line {parser.CurrentLineNumber}", f"{found}; allowed: XML without a document type")

    def start_element(tag: str, attributes: Mapping[str, str]) -> None:
        nonlocal n_elements
        line, n_elements = parser.CurrentLineNumber, n_elements + 1
        if n_elements == 1 and tag != root:
            raise file.error(f"line {line}", f"found <{shorten(tag)[1:-1]}>; allowed: <{root}>")
        start(tag, attributes, line)

    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start_element
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        line = content.splitlines()[error.lineno - 1 : error.lineno]
        found = shorten(os.fsdecode(line[0])) if line else "the end of the file"
        found = f"found {found}: {expat.ErrorString(error.code)}"
        is_token = expat.ErrorString(error.code) == expat.errors.XML_ERROR_INVALID_TOKEN
        other = f"; {OTHER_ENCODING}" if is_token and not is_declared else ""
        raise file.error(f"line {error.lineno}", f"{found}; allowed: well-formed XML{other}") from error
    except (ValueError, LookupError) as error:  # an encoding unknown to expat or to Python
        found = f"found an encoding that cannot be read: {shorten(str(error))}"
        raise file.error("line 1", f"{found}; allowed: UTF-8") from error
