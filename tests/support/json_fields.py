"""Compares the fields of a command's JSON with the fields that docs/json.md describes."""

import re

from sppfeat.cli.json_fields import json_fields


def fields_of(value, prefix=""):
    """Every field of a JSON value by its path: ``a.b`` of objects, ``a[].b`` of lists; a list of numbers is one field.

    >>> sorted(fields_of({"a": {"b": [[1, 2], [3]]}, "c": [{"d": None}, {}], "e": []}))
    ['a.b', 'c', 'c[].d', 'e']
    """
    if isinstance(value, dict) and value:
        return {
            name
            for key, part in value.items()
            for name in fields_of(part, f"{prefix}.{key}" if prefix else key)
        }
    if isinstance(value, list) and value:
        return {name for part in value for name in fields_of(part, f"{prefix}[]")}
    return {prefix.rstrip("[]")}


def check_fields(command, *outputs):
    """Checks that these outputs together have exactly the fields that docs/json.md describes."""
    described = json_fields(command)
    patterns = {field.path: re.escape(field.path).replace(r"\*", ".+") for field in described}
    used = set()
    for name in set().union(*map(fields_of, outputs)):
        found = {path for path, pattern in patterns.items() if re.fullmatch(pattern, name)}
        # An empty mapping or list does not show its fields.
        is_empty = any(re.match(rf"{re.escape(name)}[.\[]", path) for path in patterns)
        assert found or is_empty, f"{name} of {command} is not described"
        used |= found
    leaves = {
        path
        for path in patterns
        if not any(re.match(rf"{re.escape(path)}[.\[]", other) for other in patterns)
    }
    unused = leaves - used
    assert not unused, f"{command} has no {sorted(unused)}"
