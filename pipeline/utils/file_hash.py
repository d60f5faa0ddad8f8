"""Digests of the bytes of files."""

import hashlib
from pathlib import Path


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of the bytes of a file, read in blocks; OSError when it cannot be read."""
    return hash_file(path, "sha256")


def hash_file(path: Path, algorithm: str) -> str:
    """Hex digest of the bytes of a file by an algorithm of `hashlib`, such as `sha256` or `md5`."""
    with path.open("rb") as file:
        # MD5 only detects damage here; without the flag it is not available on FIPS systems.
        hasher = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False))
    return hasher.hexdigest()
