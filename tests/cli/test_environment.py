"""Options from environment variables: own ones of each command, and four of all commands."""

from unittest import mock

import click
import pytest
from command_line import run
from test_commands import COMMANDS, FORMER

import sppfeat
from sppfeat.cli.command import SHARED_VARIABLES, Option

LEVELS = next(option for option in COMMANDS["sppfeat extract"].params if option.name == "levels")


def values_of(*arguments, function, **environment):
    """Keyword arguments that a command passes to a function of the library."""
    with mock.patch.object(sppfeat, function, side_effect=KeyboardInterrupt, create=True) as called:
        result = run(*arguments, env=environment, code=130)
    return called.call_args.kwargs, result.stderr


def search(**environment):
    return values_of("search", "f.h5", "row:0", function="search", **environment)


def extract(*arguments, **environment):
    return values_of("extract", "photos", "-o", "f.h5", *arguments, function="extract", **environment)[0]


@pytest.mark.parametrize(("name", "command"), COMMANDS.items())
def test_variables_are_named_after_command_and_option(name, command):
    context = click.Context(command, auto_envvar_prefix=name.upper().replace(" ", "_"))
    own = [option for option in command.params if isinstance(option, Option)]
    for option in own:
        first, *others = option.variables(context)
        flag = option.long_name.strip("-").replace("-", "_").upper()
        assert first == f"{name.upper().replace(' ', '_')}_{flag}"
        assert others == [shared for shared in SHARED_VARIABLES.values() if shared == f"SPPFEAT_{flag}"]
    assert len({option.variables(context)[0] for option in own}) == len(own)


def test_a_variable_sets_an_option_of_its_own_command_only():
    assert search(SPPFEAT_SEARCH_LEVELS="1,2")[0]["levels"] == (1, 2)
    assert search(SPPFEAT_EXTRACT_LEVELS="1,2")[0]["levels"] is None
    command = ("show", "image", "a.jpg", "-o", "a.png")
    assert values_of(*command, function="show_image", SPPFEAT_SHOW_IMAGE_SIZE="99")[0]["size"] == 99


@pytest.mark.parametrize("name", SHARED_VARIABLES.values())
def test_shared_variables_set_options_of_every_command_that_has_them(name):
    value = {"SPPFEAT_WORKERS": "3", "SPPFEAT_QUIET": "1"}.get(name, "cpu")
    flag = {shared: flag for flag, shared in SHARED_VARIABLES.items()}[name]
    commands = [
        (full, command, option)
        for full, command in COMMANDS.items()
        for option in command.params
        if flag in option.opts
    ]
    assert len(commands) >= 3
    for full, command, option in commands:
        prefix = full.upper().replace(" ", "_")
        context = click.Context(command, auto_envvar_prefix=prefix)
        own = f"{prefix}_{name.removeprefix('SPPFEAT_')}"
        with mock.patch.dict("os.environ", {name: value}):
            assert option.value_from_envvar(context) == value
        with mock.patch.dict("os.environ", {name: value, own: "0"}):
            assert option.value_from_envvar(context) == "0"
        with mock.patch.dict("os.environ", {name: value, own: ""}):
            assert option.value_from_envvar(context) == value


def test_the_command_line_wins_over_variables():
    environment = {"SPPFEAT_DEVICE": "mps", "SPPFEAT_EXTRACT_DEVICE": "cuda", "SPPFEAT_EXTRACT_LAYER": "a"}
    values = extract("--device", "cpu", "--layer", "b", **environment)
    assert (values["device"], values["layers"]) == ("cpu", ("b",))
    assert extract(**environment)["device"] == "cuda"


@pytest.mark.parametrize(
    ("name", "text", "parameter", "value"),
    [
        ("LEVELS", "", "levels", None),
        ("LAYER", "layer3 layer4", "layers", ("layer3", "layer4")),
        ("LAYER", "", "layers", ()),
        ("EXCLUDE", "*.png thumbs", "exclude", ("*.png", "thumbs")),
        ("FLIP", "1", "flip", True),
        ("FLIP", "yes", "flip", True),
        ("FLIP", "0", "flip", False),
        ("FLIP", "", "flip", False),
        ("OVERWRITE", "true", "overwrite", True),
        ("BATCH_SIZE", "auto", "batch_size", None),
        ("SHARD", "2/3", "shard", ((2, 3), 0, 1, "")),
    ],
)
def test_values_of_variables(name, text, parameter, value):
    found = extract(**{f"SPPFEAT_EXTRACT_{name}": text})[parameter]
    if parameter == "shard":
        found = ((found.shard.index, found.shard.count), *found[1:])
    assert found == value


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("SPPFEAT_EXTRACT_FLIP", "perhaps", "'perhaps' is not a valid boolean"),
        ("SPPFEAT_EXTRACT_POOL", "sum", "'sum' is not one of 'max', 'avg'"),
        ("SPPFEAT_DEVICE", "gpu", "device is 'gpu'"),
    ],
)
def test_a_wrong_value_is_a_usage_error_that_names_the_variable(name, text, message):
    result = run("extract", "photos", "-o", "f.h5", env={name: text}, code=2)
    assert message in result.stderr
    assert f" (from {name})" in result.stderr
    flag = f"--{name.rpartition('_')[2].lower()}={text}"
    assert name not in run("extract", "photos", "-o", "f.h5", flag, env={name: text}, code=2).stderr


@pytest.mark.parametrize(("name", "option", "flag"), [*FORMER, ("sppfeat extract", LEVELS, "--levels")])
def test_a_former_variable_is_noted_with_its_present_name(name, option, flag, capsys):
    variable = f"SPPFEAT_{flag.strip('-').replace('-', '_').upper()}"
    context = click.Context(COMMANDS[name], auto_envvar_prefix=name.upper().replace(" ", "_"))
    own = option.variables(context)[0]
    with mock.patch.dict("os.environ", {variable: "1"}):
        option.consume_value(context, {})
    note = f"note: {variable} is no longer read: set {own} for {option.long_name} of this command\n"
    assert capsys.readouterr().err == note
    with mock.patch.dict("os.environ", {variable: "1", own: "1"}):
        option.consume_value(context, {})
    assert capsys.readouterr().err == ""


def test_a_former_variable_has_no_effect():
    values, said = search(SPPFEAT_LEVELS="1", SPPFEAT_ENGINE="ray", SPPFEAT_BOXES="grid:2x2")
    assert values["levels"] is None
    assert [line for line in said.splitlines() if line.startswith("note: ")] == [
        "note: SPPFEAT_LEVELS is no longer read: set SPPFEAT_SEARCH_LEVELS for --levels of this command"
    ]


def test_a_former_variable_of_a_required_option_is_noted_before_the_error():
    result = run("extract", "photos", env={"SPPFEAT_OUTPUT": "f.h5"}, code=2)
    assert "set SPPFEAT_EXTRACT_OUTPUT for --output" in result.stderr
    assert "Missing option" in result.stderr


@pytest.mark.parametrize("name", ["SPPFEAT_VERSION", "SPPFEAT_INFO_HELP_ALL", "SPPFEAT_INFO_HELP"])
def test_help_and_version_have_no_variables(tmp_path, name):
    result = run("info", tmp_path / "missing.h5", env={name: "1"}, code=1)
    assert "missing.h5" in result.stderr
