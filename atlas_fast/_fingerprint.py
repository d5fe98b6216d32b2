"""The fingerprint of the C++ and CUDA sources, by which a build and a source folder are known to belong together.

No import from the package, and none of torch: setup.py runs this file too.
"""

import hashlib
from pathlib import Path


def fingerprint(csrc: Path) -> str:
    """Hash of the names and contents of every source below `csrc`."""
    digest = hashlib.sha256()
    for path in sorted(path for path in csrc.rglob("*") if path.suffix in (".h", ".cuh", ".cpp", ".cu")):
        digest.update(f"{path.relative_to(csrc).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
