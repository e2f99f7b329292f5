"""Shared fixtures."""

import os
from pathlib import Path

import pytest
import torch

DATA = Path(os.environ.get("SCIINSTRUCT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(autouse=True)
def _threads():
    """Keep runs side by side from fighting over cores."""
    torch.set_num_threads(int(os.environ.get("SCIINSTRUCT_TEST_THREADS", "1")))


@pytest.fixture
def generator():
    """A fresh seeded generator."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def eht_dir():
    """Folder with the two M87 files of the EHT release 2019-D01-01; skipped where it is absent."""
    folder = DATA / "eht"
    if not folder.is_dir():
        pytest.skip("EHT files not found: set SCIINSTRUCT_DATA to a folder with eht/*.uvfits (release 2019-D01-01)")
    return folder


@pytest.fixture(scope="session")
def microscopy_dir():
    """Folder with the four microscope images that tests read; skipped where it is absent."""
    folder = DATA / "microscopy"
    if not folder.is_dir():
        pytest.skip("microscope images not found: set SCIINSTRUCT_DATA to a folder with microscopy/*.tif and *.jpg")
    return folder
