"""Base class of objects that a ``with`` statement closes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Closing(ABC):
    """An object that a ``with`` statement closes."""

    @abstractmethod
    def close(self) -> None:
        """Release open files and other resources."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
