"""Bytes whole or not at all: written to a file, or fetched from an address."""

import http.client
import os
import secrets
import urllib.request
from pathlib import Path

from decoder.progress import progress_bar

TIMEOUT = 20.0  # seconds without a byte before a download is given up


def write_whole(path, data):
    """Write bytes so that the file at `path` is at every moment the old one or the new one.

    The bytes go to a temporary file in the same folder, reach the disk, and only then
    take the place of what was there. If anything fails, what was there stays.

    Args:
        path: str or os.PathLike; its folder must exist.
        data: bytes.

    Raises:
        FileNotFoundError: the folder does not exist.
        OSError: no space, no permission, …; names `path`, and nothing is left behind.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path.name}: there is no folder {path.parent}")
    # Not `tempfile`: only their owner can read its files, and a run folder is for others too.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def fetch(url, label):
    """Return the bytes that an address holds, with a progress bar where somebody watches.

    Args:
        url: http or https.
        label: what the bar calls them.

    Raises:
        OSError: no server, an HTTP error, a time-out, or fewer bytes than announced.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "decoder-book"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            length = response.headers.get("Content-Length")
            return _read(response, None if length is None else int(length), label)
    except (http.client.HTTPException, ValueError) as error:  # not HTTP, or not an address
        raise OSError(f"{type(error).__name__}: {error}") from error


def _read(response, expected, label):
    data = bytearray()
    with progress_bar(desc=label, total=expected, unit="B", unit_scale=True) as bar:
        while chunk := response.read(1 << 16):
            data += chunk
            bar.update(len(chunk))
    if expected is not None and len(data) != expected:
        raise OSError(f"the connection broke off after {len(data):,} of {expected:,} bytes")
    return bytes(data)
