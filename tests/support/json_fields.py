"""Fields of a command's JSON, and those that the README describes."""

import re

from places import README


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


def documented_fields(command):
    """Fields in the README's table of a command; ``a.*`` stands for whatever is in ``a``."""
    found = re.search(rf"<!-- json of {command} -->\n(.*?)<!-- end -->", README.read_text(), re.DOTALL)
    assert found, f"README has no table of the JSON of {command}"
    first_cells = (line.split("|")[1] for line in found[1].splitlines()[2:])
    return {name.rstrip("[]") for cell in first_cells for name in re.findall(r"`([^`]+)`", cell)}


def check_fields(command, *outputs):
    """Fail unless these outputs together have exactly the fields that the README describes."""
    documented = documented_fields(command)
    used = set()
    for field in set().union(*map(fields_of, outputs)):
        of_field = {name for name in documented if _describes(name, field)}
        # An object that is null, or a list that is empty, stands for what is described of it, and does not show it.
        is_empty = any(name.startswith((f"{field}.", f"{field}[")) for name in documented)
        assert of_field or is_empty, f"{field} of {command} is not in the README"
        used |= of_field
    assert not documented - used, f"{command} has no {sorted(documented - used)}"


def _describes(name, field):
    if name.endswith(".*"):
        return field.startswith(name[:-1])
    return name == field
