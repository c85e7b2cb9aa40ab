"""The rooms of the package and which of them may import which, read from the source: lazy imports count, too."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import sppfeat

PACKAGE = Path(sppfeat.__file__).parent

# From the ground up: a room imports from lower floors only.
FLOORS = (
    ("_version", "errors"),
    ("config",),
    ("files",),
    ("pooling", "inputs", "boxes", "decoding", "networks", "store"),
    ("pyramid", "geometry"),
    ("extraction",),
    ("extractor", "sklearn"),
    ("analysis", "training", "bench"),
    ("__init__",),
    ("cli",),
    ("__main__",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# Floors whose rooms do not know each other.
STRANGERS = (
    {"pooling", "inputs", "boxes", "decoding", "networks", "store"},
    {"analysis", "training", "bench"},
)

# Who may import these packages: rooms, or folders in them. All others may be imported anywhere.
IMPORTERS = {
    "h5py": ("store",),
    "torch": (
        "store.torch_dataset",  # loaded by to_torch_dataset alone
        "networks",
        "pooling",
        "geometry",
        "pyramid",
        "extraction",
        "extractor",
        "training",
        "bench",
        "analysis.show",
        "analysis.export.tensors",  # loaded for .pt alone
    ),
    "torchvision": ("networks", "training", "bench"),
    "click": ("cli",),
    "tqdm": ("config.progress",),
    "PIL": ("decoding", "extraction.caller_images", "training", "bench", "analysis.show"),
}
DECODING_MAY_IMPORT = {"PIL", "numpy"}


class Import(NamedTuple):
    """One name that a module imports: the module, or the package that is not ours, and the name taken from it."""

    module: str
    name: str


def sources() -> dict[str, Path]:
    """Each module of the package by its dotted name without ``sppfeat.``."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


def imports_of(path: Path, tree: ast.Module) -> Iterator[Import]:
    """Every import of a module, also in functions and under ``TYPE_CHECKING``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(_own(alias.name), "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            for alias in node.names:
                whole = _own(f"{node.module}.{alias.name}")
                is_module = whole in MODULES
                yield Import(whole if is_module else _own(node.module or ""), "" if is_module else alias.name)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            first = node.args[0]
            if isinstance(first, ast.JoinedStr) and isinstance(first.values[0], ast.Constant):
                package = _own(str(first.values[0].value).rstrip("."))
                if MODULES.get(package, PACKAGE).parent != path.parent:
                    yield Import(package, "")


def _own(name: str) -> str:
    """A dotted name; ours begin with a colon in place of the package's name."""
    if name == "sppfeat":
        return "__init__"
    return name.removeprefix("sppfeat.") if name.startswith("sppfeat.") else f"/{name}"


MODULES = sources()
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
IMPORTS = {name: list(imports_of(MODULES[name], tree)) for name, tree in TREES.items()}


def room_of(module: str) -> str:
    return module.partition(".")[0]


def test_the_package_has_the_rooms_of_the_house_and_nothing_else():
    found = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert found == set(FLOOR_OF)


def test_rooms_import_from_lower_floors_only():
    wrong = set()
    for module, imports in IMPORTS.items():
        room = room_of(module)
        for imported in (i.module for i in imports if not i.module.startswith("/")):
            other = room_of(imported)
            upwards = FLOOR_OF[other] > FLOOR_OF[room]
            strangers = other != room and any({room, other} <= rooms for rooms in STRANGERS)
            if upwards or strangers:
                wrong.add((module, imported))
    assert wrong == set()


def test_packages_are_imported_by_the_rooms_that_need_them():
    wrong = set()
    for module, imports in IMPORTS.items():
        for package in (i.module[1:].partition(".")[0] for i in imports if i.module.startswith("/")):
            allowed = IMPORTERS.get(package)
            if allowed is not None and not any(f"{module}.".startswith(f"{room}.") for room in allowed):
                wrong.add((module, package))
    assert wrong == set()


def test_only_the_command_line_and_the_extractor_show_bars():
    importers = {
        room_of(module)
        for module, imports in IMPORTS.items()
        if any(imported.module == "config.progress" for imported in imports)
    }
    assert importers == {"cli", "extractor"}


def test_decoding_imports_only_pillow_and_numpy():
    import sys

    found = {
        i.module[1:].partition(".")[0]
        for module, imports in IMPORTS.items()
        if room_of(module) == "decoding"
        for i in imports
        if i.module.startswith("/")
    }
    assert found - set(sys.stdlib_module_names) <= DECODING_MAY_IMPORT


def test_private_names_of_other_packages_are_used_in_one_file_each():
    used = defaultdict(set)
    for module, tree in TREES.items():
        bound = {}  # what each imported name stands for
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                bound.update({(a.asname or a.name.partition(".")[0]): a.name for a in node.names})
            elif isinstance(node, ast.ImportFrom):
                bound.update({(a.asname or a.name): f"{node.module}.{a.name}" for a in node.names})
        own = {name: whole for name, whole in bound.items() if not whole.startswith("sppfeat")}
        for whole in own.values():
            if any(_is_private(part) for part in whole.split(".")) and not whole.startswith("__future__"):
                used[whole].add(module)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and _is_private(node.attr):
                start = ast.unparse(node).partition(".")[0]
                if start in own:
                    used[f"{own[start]}: {ast.unparse(node)}"].add(module)
    assert {name: files for name, files in used.items() if len(files) > 1} == {}


def test_nothing_private_is_imported_from_another_module():
    private = {(module, i) for module, imports in IMPORTS.items() for i in imports if _is_private(i.name)}
    ours = {(module, i) for module, i in private if not i.module.startswith("/")}
    assert ours == set()


def test_imports_have_no_circles():
    edges = {m: {i.module for i in imports if i.module in MODULES} - {m} for m, imports in IMPORTS.items()}
    edges = {m: others for m, others in edges.items() if m != "__init__"}
    # Take away what imports nothing that is left, again and again: circles, and what leads to them, remain.
    left = dict(edges)
    while True:
        free = {m for m, others in left.items() if not others & set(left)}
        if not free:
            break
        left = {m: others for m, others in left.items() if m not in free}
    while True:
        needed = set().union(*left.values()) if left else set()
        if set(left) <= needed:
            break
        left = {m: others for m, others in left.items() if m in needed}
    assert set(left) == set()


def test_each_room_says_what_goes_in_what_comes_out_and_what_it_must_not_know():
    rooms = [room for room in FLOOR_OF if (PACKAGE / room / "__init__.py").exists()]
    short = [room for room in rooms if len((ast.get_docstring(TREES[room]) or "").split()) < 25]
    silent = [room for room in rooms if "know" not in (ast.get_docstring(TREES[room]) or "")]
    assert (short, silent) == ([], [])


def _is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))
