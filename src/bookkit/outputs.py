"""What a cell's outputs look like once stored: the same on every machine and every run.

What cannot be made the same (an address in memory, a path of this machine, a warning on stderr)
is refused with its cell named, because a page that shows it is one that no test can check.
"""

import base64
import re
import struct
import sys
from pathlib import Path
from tempfile import gettempdir

import nbformat

ROOT = Path(__file__).resolve().parents[2]
WIDGET = "application/vnd.jupyter.widget-view+json"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# tEXt, zTXt and iTXt carry the writing program's version, tIME and eXIf the moment of writing.
PNG_METADATA = {b"tEXt", b"zTXt", b"iTXt", b"tIME", b"eXIf"}
ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}")
DATA_URI = re.compile(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=]+")
OVERWRITTEN = re.compile(r"^.*\r(?=[^\n])", re.MULTILINE)


class Unrepeatable(ValueError):
    """An output that another machine or another run would not print again."""


def strip_png(data):
    """Take out of a PNG what is not the picture: texts, dates, EXIF.

    Args:
        data: The bytes of a PNG file.

    Returns:
        The bytes of a PNG file with the same pixels.

    Raises:
        ValueError: data is not a whole PNG file.
    """
    if not data.startswith(PNG_SIGNATURE):
        raise ValueError(f"expected a PNG file, got bytes that start with {data[:8]!r}")
    kept, position = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while position < len(data):
        if position + 12 > len(data):
            raise ValueError(f"expected a whole PNG file, it ends inside a chunk at {len(data)}")
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        end = position + 12 + length
        if kind not in PNG_METADATA:
            kept.append(data[position:end])
        position = end
    return b"".join(kept)


def clean(outputs):
    """Make one cell's outputs repeatable.

    Args:
        outputs: The outputs of a cell as a kernel sent them.

    Returns:
        A new list: progress bars and widgets left out, neighbouring streams merged, pictures
        without metadata, errors as their message without the frames.

    Raises:
        Unrepeatable: an output holds an address in memory or a path of this machine,
            or the cell wrote something other than a progress bar to stderr.
    """
    cleaned = []
    for output in outputs:
        output = nbformat.from_dict(output)
        if output.output_type == "stream":
            _add_stream(cleaned, output)
        elif output.output_type == "error":
            # The message alone: the frames above it hold paths and line numbers.
            output.traceback = output.traceback[-1:]
            cleaned.append(output)
        elif WIDGET not in output.data:
            cleaned.append(_clean_data(output))
    for output in cleaned:
        for text in _texts(output):
            _refuse_unrepeatable(text)
    return cleaned


def _add_stream(cleaned, output):
    text = OVERWRITTEN.sub("", output.text)
    if output.name == "stderr":
        # A progress bar ends on a line that began with a carriage return.
        if "\r" not in output.text and text.strip():
            raise Unrepeatable(f"the cell writes to stderr: {text.strip()[:300]!r}")
        return
    if cleaned and cleaned[-1].output_type == "stream":
        cleaned[-1].text += text
    elif text:
        cleaned.append(nbformat.v4.new_output("stream", name=output.name, text=text))


def _clean_data(output):
    if "image/png" in output.data:
        picture = strip_png(base64.b64decode(output.data["image/png"]))
        output.data["image/png"] = base64.b64encode(picture).decode("ascii")
    output.pop("transient", None)
    return output


def _places():
    """Folders that another machine has elsewhere, the most specific first."""
    places = {ROOT, Path(sys.prefix), Path(sys.base_prefix), Path.home(), Path(gettempdir())}
    # "/" can be a home or a prefix in a container; every path would match it.
    return sorted((str(p) for p in places if len(p.parts) > 1), key=len, reverse=True)


def _texts(output):
    if output.output_type == "stream":
        return [output.text]
    if output.output_type == "error":
        return [output.evalue]
    return [v for k, v in output.data.items() if k.startswith("text/") and isinstance(v, str)]


def _refuse_unrepeatable(text):
    text = DATA_URI.sub("", text)
    found = ADDRESS.search(text)
    if found:
        raise Unrepeatable(f"the output holds an address in memory, {found.group()}")
    for place in _places():
        if re.search(rf"(?<![\w/]){re.escape(place)}/", text):
            raise Unrepeatable(f"the output holds a path of this machine, {place}/…")
