"""Options that are given twice, and wildcards that the shell replaced, are refused with a remedy that works."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from refnet_cli.cli.main import commands, run
from refnet_cli.cli.options import PathList
from tests.helpers.scenes import make_pair


def all_commands(group: click.Group = commands, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from all_commands(command, (*words, name))
        else:
            yield (*words, name)


def command_of(words: tuple[str, ...]) -> click.Command:
    command: click.Command = commands
    for word in words:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    return command


SINGLE = [
    (words, option)
    for words in all_commands()
    for option in command_of(words).params
    if isinstance(option, click.Option) and not option.multiple and not option.is_flag
]


def refusal(*words: object) -> str:
    """Return the message of a command line that is wrong usage."""
    done = CliRunner().invoke(commands, list(map(str, words)))
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize(("words", "option"), SINGLE, ids=lambda value: getattr(value, "name", None))
def test_an_option_of_one_value_is_given_once(words: tuple[str, ...], option: click.Option) -> None:
    for name in option.opts:
        for second in ([name, "1"], [f"{name}=2"] if name.startswith("--") else [name, "2"]):
            message = refusal(*words, name, "1", *second)
            assert f"{max(option.opts, key=len)} is given 2 times: 1, {second[-1][-1]}." in message


def test_an_option_of_the_program_itself_is_given_once(capfd: pytest.CaptureFixture[str]) -> None:
    json, text = ["--log-format", "json"], ["--log-format=text"]
    for words in ([*json, *text, "doctor"], [*json, "doctor", *text], ["doctor", *json, *text]):
        assert run(words) == 2
        assert "--log-format is given 2 times: json, text" in capfd.readouterr().err


def test_switches_may_be_repeated_but_not_contradicted(tmp_path: Path) -> None:
    config = tmp_path / "none.toml"
    twice = [word for word in ("--strict", "-q", "--no-resume") for _ in range(2)]
    assert run(["predict", *twice, "--config", str(config)]) == 66
    assert "--resume and --no-resume contradict each other" in refusal("predict", "--resume", "--no-resume")


def test_outputs_may_be_repeated(tmp_path: Path) -> None:
    missing = ["--optical", tmp_path / "a.tif", "--sar", tmp_path / "b.tif", "-o", tmp_path / "c.tif"]
    assert run(["predict", *map(str, missing), "-o", "areas", "-o", "style"]) == 66


@pytest.mark.parametrize("name", ["plain", "with blanks", "a,b"])
def test_files_given_one_by_one_are_to_be_separated_by_commas(name: str, tmp_path: Path) -> None:
    """What the message says is taken literally: the command then gets past its options."""
    files = [tmp_path / f"{name}{number}.tif" for number in range(3)]
    for file in files:
        file.write_text("x")
    repeated = [word for file in files for word in ("--optical", file)]
    for words in (repeated, ["--optical", *files]):
        message = refusal("inspect", *words)
        remedy = message.rpartition("--optical ")[2].strip()
        if name == "a,b":
            assert "folder of their own" in message
            assert remedy == "FOLDER"
        else:
            (value,) = shlex.split(remedy)
            assert PathList().convert(value, None, None) == tuple(files)


@pytest.mark.parametrize("words", [("--optical", "a.tif", "--optical", "a.tif"), ("--optical", "a.tif", "a.tif")])
def test_the_same_file_given_twice_is_to_be_given_once(words: tuple[str, ...]) -> None:
    message = refusal("predict", *words, "--sar", "b.tif")
    assert message.rstrip().endswith("Give it once.")
    (value,) = shlex.split(refusal("inspect", "--sar", "a", "--sar", "b", "--sar", "a").rpartition("--sar ")[2])
    assert value == "a,b"


def test_the_other_sensor_is_named_where_it_may_be_forgotten() -> None:
    hint = "If --sar was forgotten, put it before its files."
    assert hint in refusal("predict", "--optical", "s2.tif", "s1.tif", "-o", "map.tif")
    assert "forgotten" not in refusal("predict", "--optical", "a.tif", "b.tif", "--sar", "s1.tif")
    assert "forgotten" not in refusal("predict", "--optical-bands", "B2", "B3", "--optical", "a", "--sar", "b")


@pytest.mark.parametrize("wrong", [("--optical", "a", "--optical", "b"), ("--optical", "a", "b"), ("a",), ()])
def test_help_is_shown_whatever_else_is_given(wrong: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    for words in ((*wrong, "--help"), ("--help", *wrong)):
        assert run(["predict", *words]) == 0
        assert "Usage: refnet predict" in capfd.readouterr().out


def test_many_files_belong_into_a_folder() -> None:
    files = [f"s2-{number}.tif" for number in range(40)]
    message = refusal("predict", "--optical", *files, "--sar", "s1.tif")
    assert "--optical takes one value, but 40 follow it" in message
    assert "--optical FOLDER" in message
    assert "s2-30.tif" not in message


def test_a_url_and_a_file_stay_apart_when_joined() -> None:
    message = refusal("inspect", "--sar", "https://a.org/vv.tif?key=1", "--sar", "vh.tif")
    assert "key=1" not in message
    (value,) = shlex.split(message.rpartition("--sar ")[2])
    assert list(map(str, PathList().convert(value, None, None))) == ["https://a.org/vv.tif", "vh.tif"]


def test_a_wildcard_that_nobody_replaced_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_pair(tmp_path, 8, 8)
    monkeypatch.chdir(tmp_path)
    message = refusal("inspect", "--optical", "s*.tif")
    assert "s*.tif is a wildcard" in message
    assert "s1.tif,s2.tif" in message
    (tmp_path / "s[1].tif").write_text("x")  # a file of that very name is none
    assert run(["inspect", "--optical", "s[1].tif"]) == 65


@pytest.mark.parametrize(
    ("words", "takes"),
    [(("verify", "a", "b", "c"), "MAP only"), (("evaluate", "a", "b", "c"), "[MAP] and [LABELS] only"),
     (("batch", "run", "a", "b"), "TASKS only"), (("weights", "list", "x"), "options only")],
)  # fmt: skip
def test_arguments_that_are_too_many(words: tuple[str, ...], takes: str) -> None:
    message = refusal(*words)
    assert takes in message
    assert f"too many: {words[-1] if words[0] != 'verify' else 'b, c'}." in message
