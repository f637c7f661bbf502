"""Lists of the principals that may read a document."""

from collections.abc import Mapping
from typing import Any

from heal_tasks.core.errors import InputError
from heal_tasks.core.text import storable

ACL_FIELD = "acl"
"""The key of a document's metadata, in any case, that names its readers."""

Acl = list[str] | None
"""Principals in order, each once; None: everybody; an empty list: nobody but the pipeline."""


def acl_of(metadata: Mapping[str, Any], default: Acl = None) -> Acl:
    """The readers that a document's metadata name, or else the default of its source.

    Raises:
        InputError: as ``principals``, or the metadata name them twice, under keys in different case.
    """
    named = [value for key, value in metadata.items() if key.lower() == ACL_FIELD and value is not None]
    if len(named) > 1:
        raise InputError(f"the metadata name readers {len(named)} times, under {ACL_FIELD} in different case; keep one")
    return principals(named[0]) if named else default


def principals(value: object) -> list[str]:
    """A list of principals, or a text with commas between them, in order, each once.

    Raises:
        InputError: it is neither, a principal is no text or number, or the text begins with a bracket.
    """
    if isinstance(value, str) and value.lstrip()[:1] in {"{", "["}:
        raise InputError(
            f"{ACL_FIELD} is a text that begins as a list of another kind; write the principals with commas between "
            "them, as in alice, group:sales"
        )
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or any(
        isinstance(item, bool) or not isinstance(item, str | int) for item in items
    ):
        # Without the value: readers can see why a record was rejected, but not who its readers are.
        given = "a list with other items" if isinstance(items, list | tuple) else f"of type {type(value).__name__}"
        raise InputError(
            f"{ACL_FIELD} must be a list of principals, or a text with commas between them, but it is {given}; "
            'an example is ["alice", "group:sales"]'
        )
    named = (storable(str(item)).strip() for item in items)
    return sorted({name for name in named if name})
