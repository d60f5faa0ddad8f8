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
        # A row that stays where it is, in a place that HDF5 has set aside.
        early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        kept = file.create_dataset("kept", (2, 7), np.uint8, dcpl=early)
        memory.keep(kept.id.get_offset() + 7, rows[1, :7])
    with h5py.File(io.BytesIO(b"".join(memory.pieces())), "r") as file:
        assert np.array_equal(file["rows"], rows)
        assert file["later"][()].tolist() == [0, 1, 2, 3, 4]
        assert file["kept"][1].tolist() == rows[1, :7].tolist()
