"""A file in memory: HDF5 reads from its bytes what it wrote."""

import io

import h5py
import numpy as np

from pipeline.dataset.memory_file import MemoryFile


def test_hdf5_reads_what_it_wrote_into_memory_that_had_to_grow() -> None:
    rows = np.arange(3 << 20, dtype=np.uint8).reshape(3, -1)
    memory = MemoryFile(0)
    with h5py.File(memory, "w") as file:
        file["rows"] = rows
        file["later"] = np.arange(5)
    with h5py.File(io.BytesIO(memory.content()), "r") as file:
        assert np.array_equal(file["rows"], rows)
        assert file["later"][()].tolist() == [0, 1, 2, 3, 4]
