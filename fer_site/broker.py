"""Where the broker that `make run` embeds listens: a Unix socket, no port that a neighbour could reach."""

import hashlib
import tempfile
from pathlib import Path
from typing import Final

# The kernel's sockaddr_un holds 108 bytes on Linux and 104 on macOS, with the closing zero.
LONGEST_SOCKET_PATH: Final = 103


def socket_path(var_dir: Path) -> Path:
    """Return the socket's path: in `var_dir`, or in the temporary folder where that path is too long.

    The same `var_dir` gives the same path in every process, so the site and its worker agree without a word.
    """
    path = var_dir / "broker" / "valkey.sock"
    if len(bytes(path)) <= LONGEST_SOCKET_PATH:
        return path
    digest = hashlib.sha256(bytes(var_dir)).hexdigest()[:16]
    return Path(tempfile.gettempdir(), f"fmpn-fer-{digest}", "valkey.sock")
