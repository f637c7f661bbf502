"""Listings of buckets that end, whatever a server sends: it may repeat pages, or invent objects without an end."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")

MOST_OBJECTS, MOST_EMPTY_PAGES = 5_000_000, 1000


class ListingError(Exception):
    """A listing has no end, or none that can be believed."""

    def sentence(self, where: str, check: str) -> str:
        """The message of the error of a place with such a listing; ``check`` is what its owner looks at."""
        return f"{where}: {self}, so nothing was concluded from it; {check}, or ask who runs it"


def ending(pages: Iterable[Sequence[Item]], key: Callable[[Item], str]) -> Iterator[Item]:
    """The items of pages; ListingError where a page comes again, where none has an item, or where there is no end."""
    seen, empty, count = set[str](), 0, 0
    for page in pages:
        empty = 0 if page else empty + 1
        if empty > MOST_EMPTY_PAGES:
            raise ListingError(f"the listing has had {empty:,} pages without an object, and more follow")
        if page:
            first = key(page[0])
            if first in seen:
                raise ListingError(f"the listing repeats the page that begins with {first[:200]!r}")
            seen.add(first)
        count += len(page)
        if count > MOST_OBJECTS:
            raise ListingError(f"the listing has more than {MOST_OBJECTS:,} objects; name a smaller prefix")
        yield from page
