"""Public names that are imported on first use; each stands in for itself where a library is missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NoReturn

from refnet_cli.errors import EXTRAS, UnavailableError


class Missing:
    """Stand-in for a public name whose library is missing; any use raises an error that says what to install.

    Parameters
    ----------
    name : str
    reason : str
        The end of the message: which library is missing, and what to do.
    """

    def __init__(self, name: str, reason: str) -> None:
        self.__name__ = name
        self._reason = reason

    def _refuse(self) -> NoReturn:
        raise UnavailableError(f"{self.__name__} {self._reason}")

    def __call__(self, *given: Any, **named: Any) -> NoReturn:
        """Refuse."""
        self._refuse()

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # Python's own look-ups
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._refuse()

    def __instancecheck__(self, instance: object) -> NoReturn:
        self._refuse()

    def __subclasscheck__(self, subclass: type) -> NoReturn:
        self._refuse()

    def __mro_entries__(self, bases: tuple[Any, ...]) -> NoReturn:
        self._refuse()


def public(name: str, home: str) -> Any:
    """Import a name from a module, or return a stand-in if a library that the module needs is missing.

    Parameters
    ----------
    name : str
    home : str
        The module.
    """
    try:
        return getattr(import_module(home), name)
    except ImportError as error:
        library = (error.name or "").partition(".")[0]
        if library not in EXTRAS:
            raise
        state = "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be imported ({error})"
        return Missing(name, f"needs {library}, which {state}: pip install 'refnet-cli[{EXTRAS[library]}]'.")
