"""Shells complete command lines of refnet: commands, options, choices, names and paths, without loading torch."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from refnet_cli.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
SHELLS = ("bash", "zsh", "fish")


@pytest.fixture
def refnet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return what the program prints where these variables are set."""

    def call(**environment: str) -> str:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit, match=r"^0$"):
            main()
        return capsys.readouterr().out

    return call


@pytest.fixture
def ask(refnet: Callable[..., str]) -> Callable[..., set[tuple[str, str]]]:
    """Return kinds and values of what is offered for the last word, as a shell's script asks for it."""

    def call(shell: str, *words: str) -> set[tuple[str, str]]:
        place = words[-1] if shell == "fish" else str(len(words))
        line = f"{shlex.join(['refnet', *words[:-1]])} {words[-1]}"
        found = refnet(_REFNET_COMPLETE=f"{shell}_complete", COMP_WORDS=line, COMP_CWORD=place).splitlines()
        if shell == "zsh":  # three lines each: kind, value, help
            return set(zip(found[::3], found[1::3], strict=True))
        return {tuple(entry.split("\t")[0].split(",", 1)) for entry in found}  # type: ignore[misc]

    return call


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_of_a_shell_is_printed(shell: str, refnet: Callable[..., str]) -> None:
    script = refnet(_REFNET_COMPLETE=f"{shell}_source")
    assert f"_REFNET_COMPLETE={shell}_complete" in script
    if program := shutil.which(shell):
        assert subprocess.run([program, "-n"], input=script, text=True, capture_output=True).returncode == 0


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("words", "kind", "offered"),
    [
        (["pre"], "plain", {"predict"}),
        (["batch", ""], "plain", {"plan", "run", "merge", "status"}),
        (["predict", "--optical-o"], "plain", {"--optical-offset"}),
        (["predict", "--strict", "--strict", "--no-res"], "plain", {"--no-resume"}),
        (["predict", "--optical", "a.tif", "--optical", "b.tif", "--coreg", "re"], "plain", {"require"}),
        (["train", "regions.toml", "--split", ""], "plain", {"blocks", "region", "random", "none"}),
        (["inspect", "--missing", "u"], "plain", {"use-other"}),
        (["predict", "--optical", "s2"], "file", {"s2"}),
        (["predict", "-o", "m"], "file", {"m"}),
        (["batch", "plan", "sce"], "file", {"sce"}),
        (["register", "--grid", "g"], "file", {"g"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_offered(
    shell: str, words: list[str], kind: str, offered: set[str], ask: Callable[..., set[tuple[str, str]]]
) -> None:
    assert ask(shell, *words) == {(kind, value) for value in offered}


def test_weights_are_names_or_files(ask: Callable[..., set[tuple[str, str]]]) -> None:
    assert ask("bash", "predict", "--weights", "refnet") == {("plain", "refnet-base"), ("file", "refnet")}


@pytest.mark.parametrize("command", ["predict", "train"])
def test_completing_is_cheap(command: str) -> None:
    code = "import sys\nfrom refnet_cli.cli.main import main\ntry:\n    main()\nfinally:\n    print(*sys.modules)"
    asked = {"_REFNET_COMPLETE": "bash_complete", "COMP_WORDS": f"refnet {command} --scan --op", "COMP_CWORD": "3"}
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | asked
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert {"click", "refnet_cli"} <= loaded
    assert not loaded & {"torch", "timm", "numba", "rasterio", "scipy", "pandas", "odc"}


@pytest.fixture
def complete(tmp_path: Path) -> Callable[..., list[str]]:
    """Return what bash itself offers, by the script that `refnet` prints, as its readline would ask."""
    program = tmp_path / "bin" / "refnet"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m refnet_cli "$@"\n')
    program.chmod(0o755)

    def call(*words: str) -> list[str]:
        script = f"""
            compopt() {{ printf "compopt %s %s\\n" "$@"; }}  # which works only while readline asks
            eval "$(_REFNET_COMPLETE=bash_source refnet)"
            COMP_WORDS=(refnet {shlex.join(words)})
            COMP_CWORD={len(words)}
            $(complete -p refnet | sed 's/.*-F \\([^ ]*\\).*/\\1/') refnet
            printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, timeout=60, env=os.environ | {"PATH": path}
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.split("\n")[:-1]

    return call


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes(complete: Callable[..., list[str]]) -> None:
    assert complete("ins") == ["inspect"]
    assert complete("predict", "--on-r") == ["--on-read-error"]
    assert complete("predict", "--on-read-error", "") == ["fail", "mask"]
    assert complete("predict", "--weights", "ref") == ["compopt -o default", "refnet-base"]
    assert complete("predict", "--optical", "s2") == ["compopt -o default", ""]


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish")
def test_fish_completes(complete: Callable[..., list[str]], tmp_path: Path) -> None:
    line = "_REFNET_COMPLETE=fish_source refnet | source; complete -C 'refnet predict --on-read-error '"
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    given = os.environ | {"PATH": path, "HOME": str(tmp_path)}
    done = subprocess.run(["fish", "-c", line], capture_output=True, text=True, timeout=60, env=given)
    assert done.stdout.split() == ["fail", "mask"], done.stderr
