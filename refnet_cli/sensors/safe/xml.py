"""XML files of a SAFE product, parsed with limits."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

import numpy as np

from refnet_cli.errors import InputError, InputMissingError
from refnet_cli.sensors.safe.files import ADVICE, XML_BYTES, ZIP_FAULTS, Files, shorten
from refnet_cli.types import Float64

_ELEMENTS = 300_000  # limit of an XML file; the longest cloud masks have some ten thousand


class Builder(ElementTree.TreeBuilder):
    """Tree builder that refuses document types, and thereby entity expansion, and documents with too many elements."""

    def __init__(self) -> None:
        super().__init__()
        self._left = _ELEMENTS

    def start(self, tag: str, attributes: dict[str, str]) -> ElementTree.Element:
        """Count an element."""
        self._left -= 1
        if not self._left:
            raise ValueError(f"it has more than {_ELEMENTS} elements")
        return super().start(tag, attributes)

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        """Refuse a document type."""
        raise ValueError("it declares a document type, which allows entity expansion")


def parse(files: Files, name: str) -> ElementTree.Element:
    """Parse one of the product's XML files."""
    try:
        text = files.read(name)
        if len(text) > XML_BYTES:
            raise ValueError(f"it is larger than {XML_BYTES >> 20} MB")
        return ElementTree.fromstring(text, ElementTree.XMLParser(target=Builder()))
    except OSError as cause:
        raise InputMissingError(
            f"{name} of {files.path} cannot be read ({cause.strerror}). Check its permissions and that it is complete."
        ) from cause
    except (ElementTree.ParseError, LookupError, *ZIP_FAULTS) as cause:
        raise InputError(f"{name} of {files.path} cannot be read as XML ({cause}). {ADVICE}") from cause


def local_name(tag: str) -> str:
    """Remove the namespace from a tag. It differs between versions of the specification."""
    return tag.rpartition("}")[2]


def elements(root: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    """Yield the elements of a name, in any namespace."""
    return (element for element in root.iter() if local_name(element.tag) == name)


def text_of(root: ElementTree.Element, *names: str) -> str:
    """Return the first non-empty text of elements with these names; "" if there is none."""
    texts = ((element.text or "").strip() for name in names for element in elements(root, name))
    return next(filter(None, texts), "")


def to_number(text: str | None, what: str, where: str) -> float:
    """Return a finite number; raise InputError, which says ``what`` it is and ``where``, for anything else."""
    try:
        number = float(text or "")
    except ValueError:
        number = np.nan
    if not np.isfinite(number):
        raise InputError(f"{where} gives {shorten(text or '')} for {what}, which is not a number. {ADVICE}")
    return number


def to_numbers(element: ElementTree.Element, tag: str, where: str) -> Float64:
    """Return the finite numbers of an element's text; raise InputError for anything else."""
    try:
        numbers = np.array(text_of(element, tag).split(), np.float64)
    except ValueError:
        numbers = np.array([np.nan])
    if not np.isfinite(numbers).all():
        raise InputError(f"{where} has a vector whose {tag} are not all numbers. {ADVICE}")
    return numbers
