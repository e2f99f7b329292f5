"""The same results here and on a cluster, items taken no faster than they are worked off, errors handed on."""

import pytest
import torch

from sciinstruct.core.workers import _LEAST_AHEAD, fixed_threads, map_as_done


def square(n):
    if n < 0:
        raise ValueError(f"no square of {n}")
    return n * n


@pytest.fixture(scope="module")
def client():
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def test_here_in_order_and_one_at_a_time():
    taken = []
    results = map_as_done(square, (taken.append(n) or n for n in range(5)))
    assert next(results) == 0 and taken == [0]
    assert list(results) == [1, 4, 9, 16]


def test_a_cluster_gives_every_result_once(client):
    assert sorted(map_as_done(square, range(40), client)) == [n * n for n in range(40)]
    assert not list(map_as_done(square, [], client))


def test_equal_items_are_separate_work(client):
    assert list(map_as_done(square, [3, 3, 3], client)) == [9, 9, 9]


def test_a_cluster_holds_a_few_items_at_a_time(client):
    taken = []
    results = map_as_done(square, (taken.append(n) or n for n in range(1000)), client)
    for k in range(1, 4):
        next(results)
        assert len(taken) <= _LEAST_AHEAD + k
    results.close()
    assert len(taken) <= _LEAST_AHEAD + 3


def test_an_error_comes_out_as_it_was(client):
    for where in (None, client):
        with pytest.raises(ValueError, match="no square of -1"):
            list(map_as_done(square, [-1, 2], where))
    assert list(map_as_done(square, [2], client)) == [4]


def test_threads_are_fixed_and_given_back_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(ValueError), fixed_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise ValueError
    assert torch.get_num_threads() == before
