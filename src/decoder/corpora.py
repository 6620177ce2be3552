"""Text to train on: three named corpora, or any UTF-8 file. `decoder.text` re-exports this.

- `tiny-shakespeare`: 1,115,394 bytes of the plays, as Andrej Karpathy cut them for char-rnn.
  The plays are in the public domain.
- `shakespeare`: the complete works, Project Gutenberg's number 100, about 5.5 MB. In the
  public domain in the USA. Project Gutenberg's terms bind copies that carry its name; its
  header and licence are therefore cut off.
- `pydoc`: the help topics that every CPython carries (`pydoc_data.topics`), about 0.5 MB.
  © Python Software Foundation, PSF License Version 2.

The second is revised from time to time, the third differs between versions of Python:
neither has a fixed checksum.

What is read is bytes, and the checksum is of those bytes. What is returned is text: a byte
order mark at the start is dropped, and line ends (`\\r\\n` or `\\r`) become `\\n`, as in
Python's own text mode, so that a corpus is the same on every system. Nothing else changes.
"""

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from decoder.files import fetch, write_whole

FOLDER_VARIABLE = "DECODER_CORPORA"  # the environment variable that names a folder of corpora


class CorpusNotFound(OSError):
    """A named corpus is not on this machine and could not be downloaded; says why."""


def strip_gutenberg(text):
    """Return what stands between Project Gutenberg's START and END lines.

    Raises:
        ValueError: one of the two is missing, or nothing stands between them.
    """
    marker = r"^\*\*\* ?{} OF (?:THE|THIS) PROJECT GUTENBERG [^*]*\*\*\*"
    start = re.search(marker.format("START"), text, re.MULTILINE)
    if start is None:
        raise ValueError("expected a line '*** START OF THE PROJECT GUTENBERG …', found none")
    end = re.compile(marker.format("END"), re.MULTILINE).search(text, start.end())
    if end is None:
        raise ValueError("expected a line '*** END OF THE PROJECT GUTENBERG …', found none")
    body = text[start.end() : end.start()].strip("\n")
    if not body.strip():
        raise ValueError("expected text between Project Gutenberg's START and END, found none")
    return body + "\n"


def _unchanged(text):
    return text


@dataclass(frozen=True)
class Corpus:
    """A text that can be downloaded.

    Attributes:
        filename: under which it is kept, and looked for.
        url: where it is published.
        sha256: of the published bytes; None where they are revised from time to time.
        clean: from the published text to the corpus; raises ValueError if it is another text.
    """

    name: str
    filename: str
    url: str
    sha256: str | None = None
    clean: Callable[[str], str] = _unchanged


_ALL = (
    Corpus(
        name="tiny-shakespeare",
        filename="tinyshakespeare.txt",
        url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
    Corpus(
        name="shakespeare",
        filename="pg100.txt",
        url="https://www.gutenberg.org/cache/epub/100/pg100.txt",
        clean=strip_gutenberg,
    ),
)
CORPORA = {corpus.name: corpus for corpus in _ALL}


def load_corpus(name_or_path):
    """Return a text to train on.

    A named corpus is looked for in the folder that the environment variable DECODER_CORPORA
    names, then in the user's cache; else it is downloaded into the cache. `pydoc` needs
    neither. A name wins over a file of the same name: `Path("pydoc")` is always a file.

    Args:
        name_or_path: "tiny-shakespeare", "shakespeare", "pydoc", or the path (str or
            os.PathLike) of a UTF-8 file.

    Returns:
        str, never empty; line ends are "\\n".

    Raises:
        CorpusNotFound: an OSError; the named corpus is neither here nor to be downloaded.
        FileNotFoundError: neither a known name nor a file.
        IsADirectoryError: the path of a folder.
        ValueError: the file is empty, not UTF-8, or not the corpus that its name promises.
    """
    if isinstance(name_or_path, str):
        if name_or_path == "pydoc":
            return pydoc_topics()
        if name_or_path in CORPORA:
            return _named(CORPORA[name_or_path])
    elif not isinstance(name_or_path, os.PathLike):
        raise ValueError(f"expected a corpus name or a path, got {name_or_path!r}; {_known()}")
    path = Path(name_or_path).expanduser()
    if name_or_path == "" or not path.exists():
        raise FileNotFoundError(
            f"{os.fspath(name_or_path)!r} is neither a corpus nor a file; {_known()}"
        )
    if path.is_dir():
        raise IsADirectoryError(f"expected a file, got the folder {path}")
    return as_text(path.read_bytes(), path)


def pydoc_topics():
    """Return the help topics of this Python, in alphabetical order of their names."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name].strip("\n") + "\n" for name in sorted(topics))


def as_text(data, source):
    """Decode UTF-8 bytes; `source` is what an error calls them.

    Raises:
        ValueError: nothing but white space, bytes that are not UTF-8, or a NUL, which
            only binary files and UTF-16 hold; the last two with their offset in bytes.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = data[error.start]
        raise ValueError(
            f"{source}: expected UTF-8, but byte 0x{byte:02x} at offset {error.start} is not "
            "(a binary file, or a text in another encoding: save it as UTF-8)"
        ) from error
    if "\0" in text:
        raise ValueError(
            f"{source}: expected text, but byte 0x00 at offset {data.index(0)} is of a binary "
            "file, or of a text in UTF-16: save it as UTF-8"
        )
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise ValueError(f"{source}: expected text, got {len(data)} bytes without any")
    return text


def cache_folder():
    """Return the folder of this user's cache in which downloads are kept, as a Path."""
    return platformdirs.user_cache_path("decoder-question-by-question")


def _known():
    names = ", ".join([*CORPORA, "pydoc"])
    return f"the corpora are {names}; the path of a UTF-8 file would do too"


def _folders():
    named = os.environ.get(FOLDER_VARIABLE)
    return [*([Path(named).expanduser()] if named else []), cache_folder()]


def _named(corpus):
    for folder in _folders():
        path = folder / corpus.filename
        if path.exists():
            try:
                return _checked(corpus, path.read_bytes(), path)
            except ValueError as error:
                raise ValueError(f"{error}. Delete it, and it is downloaded anew.") from error
    return _downloaded(corpus)


def _checked(corpus, data, source):
    found = hashlib.sha256(data).hexdigest()
    if corpus.sha256 not in (None, found):
        raise ValueError(
            f"{source} is damaged, or not {corpus.name!r}: expected sha256 {corpus.sha256}, "
            f"got {found} ({len(data):,} bytes)"
        )
    text = as_text(data, source)
    try:
        return corpus.clean(text)
    except ValueError as error:
        raise ValueError(f"{source} is not {corpus.name!r}: {error}") from error


def _downloaded(corpus):
    try:
        data = fetch(corpus.url, corpus.name)
        text = _checked(corpus, data, "what came")
        cache_folder().mkdir(parents=True, exist_ok=True)
        write_whole(cache_folder() / corpus.filename, data)
    except (OSError, ValueError) as error:
        looked = "".join(f"\n  {folder / corpus.filename}: no such file" for folder in _folders())
        unset = "" if os.environ.get(FOLDER_VARIABLE) else f"\n  {FOLDER_VARIABLE}: not set"
        raise CorpusNotFound(
            f"{corpus.name!r} is not here and could not be downloaded. Looked for it at"
            f"{unset}{looked}\n  {corpus.url}: {str(error) or type(error).__name__}\n"
            f"Set {FOLDER_VARIABLE} to a folder that holds {corpus.filename}, or give "
            'load_corpus the path of any UTF-8 file, or "pydoc", which needs no network.'
        ) from error
    return text
