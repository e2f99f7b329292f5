"""One progress bar for all long work."""

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def track(items: Iterable[T], *, progress: bool, description: str, total: int | None = None) -> Iterable[T]:
    """Iterate over `items`, with a bar on stderr if `progress` is true."""
    if not progress:
        return items
    from tqdm.auto import tqdm

    return tqdm(items, desc=description, total=total, dynamic_ncols=True)
