"""From values to the words of a command line."""

from __future__ import annotations

from typing import Any

from .roles import ABOUT


def command_words(command: str, values: dict[str, Any]) -> list[str]:
    """Return the words of a command, without the program's name.

    Parameters
    ----------
    command : str
        Such as ``predict``.
    values : dict
        Values by the names of parameters: texts, numbers, booleans, and lists of texts where an option may be given
        several times. What is None or "" is not given, and so has the default of the program.

    Returns
    -------
    list of str
        Options with two dashes and their values in one word each, so that a value may begin with a dash; arguments
        come last, after ``--``.

    Raises
    ------
    KeyError
        If the command has no parameter of that name.
    """
    known = {one["name"]: one for one in ABOUT["commands"][command]["parameters"]}
    if unknown := values.keys() - known.keys():
        raise KeyError(f"refnet {command} has no {', '.join(sorted(unknown))}")
    words: list[str] = []
    arguments: list[str] = []
    for name, about in known.items():
        value = values.get(name)
        if value is None or value == "":
            continue
        if "flag" not in about:
            arguments.append(str(value))
        elif about["kind"] in ("flag", "switch"):
            words += [about["flag"]] if value else [about["off"]] if "off" in about else []
        else:
            words += [f"{about['flag']}={each}" for each in (value if about["multiple"] else [value])]
    return ["--log-format=json", command, *words, *(["--", *arguments] if arguments else [])]
