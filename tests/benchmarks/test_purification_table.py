"""The table of the purification benchmark counts what it says."""

import numpy as np

from benchmarks.purification_table import _SHOWN, blocks, minimum, print_tables


def row(right, n):
    values = {name: [4] * n for name in (*_SHOWN, "exact, seed known")} | right
    return {
        "draws": 4, "right": values, "counted": list(_SHOWN), "vote": [1] * n, "all": [0] * n, "rescored": 0.5,
        "beyond": 0.0, "seconds": 1e-3, "calls": [5, 5],
    }  # fmt: skip


def test_blocks_join_and_the_minimum_is_per_image(capsys):
    results = {
        "a 0": row({"exact": [4, 0], "square": [2, 4]}, 2),
        "a 2": row({"exact": [3]}, 1),
        "DiffPure-style 2": row({}, 1),
        "DiffPure-style 0": row({"exact, seed known": [0, 0]}, 2),
        "a 3": row({"exact": [0]}, 1),  # only one model has it
        "rate 0": {"sigma": 0.3, "clean": 1, "exact": 1, "surrogate": 1, "bpda": 1, "worst": 1, "error": 0.1},
    }
    models = blocks(results)
    np.testing.assert_allclose(minimum(models["a"]), [0.5, 0, 0.75])
    np.testing.assert_allclose(minimum(models["DiffPure-style"]), 1)
    print_tables(results)
    printed = capsys.readouterr().out
    assert "3 images" in printed and "**0.417 ±" in printed and "| 5 + 5 | 1.00 |" in printed
    assert "a minus DiffPure-style: -0.583" in printed
    assert printed.count("| a |") == 1
