"""The same work for many items: here or over a Dask cluster, with torch's threads fixed."""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from sciinstruct.core.errors import SciinstructError

if TYPE_CHECKING:
    from distributed import Client

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 2  # items per worker thread that a cluster holds at a time
_LEAST_AHEAD = 8  # so that a cluster which grows with its load has something to grow for


@contextlib.contextmanager
def fixed_threads(count: int) -> Iterator[None]:
    """Sums split over another number of threads round differently: fix it, and restore it after."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def map_as_done(
    function: Callable[[Item], Result], items: Iterable[Item], client: "Client | None" = None
) -> Iterator[Result]:
    """Apply `function` to every item and give results as they are ready.

    Parameters
    ----------
    function : callable
        Must pickle where a `client` is given, as must items and results.
    items : iterable
        Taken as room arises: a cluster never holds more than a few per worker.
    client : distributed.Client, optional
        By default the work is done here, in order.

    Yields
    ------
    Result
        In any order. The first error ends the loop; what was not begun is not begun then.

    Raises
    ------
    SciinstructError
        If the cluster's workers die of an item.
    """
    if client is None:
        yield from map(function, items)
        return
    from distributed import KilledWorker, as_completed

    waiting = iter(items)
    held: set[Any] = set()
    arriving = as_completed(loop=client.loop)

    def fill() -> None:
        room = max(_LEAST_AHEAD, _AHEAD * sum(client.nthreads().values())) - len(held)
        for item in itertools.islice(waiting, max(0, room)):
            future: Any = client.submit(function, item, pure=False)
            held.add(future)
            arriving.add(future)

    try:
        fill()
        for future in arriving:
            held.discard(future)
            result = future.result()
            future.release()
            fill()
            yield result
    except KilledWorker as error:
        raise SciinstructError(
            f"workers died at the same work again and again, of memory most likely: {error}"
        ) from error
    finally:
        client.cancel(list(held))
