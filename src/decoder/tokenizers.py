"""Text as token ids: one id per character, or one per word. `decoder.text` re-exports this."""

import json
import re
from collections import Counter
from itertools import chain
from pathlib import Path

import torch

from decoder.checks import as_ids
from decoder.files import write_whole

N_BYTES = 256


class _Tokenizer:
    """What both kinds share: an id is a place in a list of strings."""

    @property
    def d_vocab(self):
        return len(self.token_strings)

    def tokens(self, ids):
        """Return what each of `ids`, (seq,), stands for: a list of str, for figures."""
        return [self.token_strings[i] for i in as_ids(ids, self.d_vocab).tolist()]

    def save(self, path):
        """Write the vocabulary as JSON, whole or not at all; `load_tokenizer` reads it."""
        saved = {"kind": type(self).__name__, "tokens": self.vocabulary}
        write_whole(path, json.dumps(saved, indent=0).encode())

    def __repr__(self):
        return f"{type(self).__name__}(d_vocab={self.d_vocab})"


class CharTokenizer(_Tokenizer):
    """One token per character (code point) of the text that it was made from.

    It knows these characters and no others: `encode` refuses a character that the
    text does not hold, rather than change or drop it.

    Args:
        characters: each character once; its place is its id. See `from_text`.

    Attributes:
        token_strings: id -> the character.
        d_vocab: how many.
    """

    def __init__(self, characters):
        self.vocabulary = _distinct(characters)
        if not self.vocabulary:
            raise ValueError("expected at least one character, got none")
        for character in self.vocabulary:
            if len(character) != 1:
                raise ValueError(f"expected single characters, got {character!r}")
        self.token_strings = self.vocabulary
        self._ids = {character: i for i, character in enumerate(self.vocabulary)}

    @classmethod
    def from_text(cls, text):
        """Make a tokenizer of the characters of `text`, ids in the order of their code points."""
        return cls(sorted(set(_check_unicode(text))))

    def encode(self, text):
        """Return the ids of `text`, (seq,) int64.

        Raises:
            ValueError: a character that the tokenizer does not know; names it and its place.
        """
        try:
            return torch.tensor([self._ids[c] for c in _check_unicode(text)], dtype=torch.int64)
        except KeyError as error:
            unknown = error.args[0]
            raise ValueError(
                f"expected the {self.d_vocab} characters of the text that this tokenizer was "
                f"made from, got {unknown!r} (U+{ord(unknown):04X}) at place {text.index(unknown)}"
            ) from None

    def decode(self, ids):
        """Return the text of `ids`, (seq,) integers in [0, d_vocab)."""
        return "".join(self.tokens(ids))


class WordTokenizer(_Tokenizer):
    """One token per word and per stretch between words; rare words are spelled in bytes.

    Ids 0 to 255 are the 256 bytes, the others are words. A word that is not among them is
    spelled: one token per byte of its UTF-8. Hence any Unicode text can be encoded, whatever
    the tokenizer was made from, and decoding gives it back: it joins the bytes of all tokens
    and reads the whole as UTF-8. (Sampled ids may join to bytes that are not UTF-8, such as
    half a character: these become U+FFFD.)

    Args:
        words: each once, the first has id 256. See `from_text`.

    Attributes:
        token_strings: id -> the word; for bytes the ASCII character, else as "<0xE2>".
        d_vocab: 256 + the number of words.
    """

    def __init__(self, words):
        self.vocabulary = _distinct(words)
        spelling = [chr(b) if b < 0x80 else f"<0x{b:02X}>" for b in range(N_BYTES)]
        self.token_strings = spelling + self.vocabulary
        self._ids = {word: N_BYTES + i for i, word in enumerate(self.vocabulary)}
        self._bytes = [bytes([b]) for b in range(N_BYTES)]
        self._bytes += [word.encode() for word in self.vocabulary]

    @classmethod
    def from_text(cls, text, d_vocab=8192):
        """Make a tokenizer of the most frequent words of `text`, most frequent first.

        Args:
            text: str.
            d_vocab: most tokens to have, at least 256 for the bytes. A text of fewer
                words gives fewer. Of equally frequent words the one seen first goes first.
        """
        if not isinstance(d_vocab, int) or d_vocab < N_BYTES:
            raise ValueError(f"expected d_vocab of at least {N_BYTES}, got {d_vocab!r}")
        counts = Counter(split_words(text))
        return cls(word for word, _ in counts.most_common(d_vocab - N_BYTES))

    def encode(self, text):
        """Return the ids of `text`, any Unicode text, (seq,) int64."""
        pieces = split_words(text)
        ids = {  # each distinct piece is looked up or spelled once
            piece: [self._ids[piece]] if piece in self._ids else list(piece.encode())
            for piece in set(pieces)
        }
        flat = chain.from_iterable(map(ids.__getitem__, pieces))
        return torch.tensor(list(flat), dtype=torch.int64)

    def decode(self, ids):
        """Return the text of `ids`, (seq,) integers in [0, d_vocab)."""
        joined = b"".join(self._bytes[i] for i in as_ids(ids, self.d_vocab).tolist())
        return joined.decode(errors="replace")


def split_words(text):
    """Split at word boundaries: words, and the spaces and punctuation between them.

    `re.split` also yields an empty string before a word that starts the text and after one
    that ends it. Those are dropped: joining the pieces gives the text with or without them.
    """
    return [piece for piece in re.split(r"\b", _check_unicode(text)) if piece]


def load_tokenizer(path):
    """Read what `save` wrote: a CharTokenizer or a WordTokenizer.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON, or not a tokenizer's; names the file.
    """
    kinds = {kind.__name__: kind for kind in (CharTokenizer, WordTokenizer)}
    try:
        saved = json.loads(Path(path).read_bytes())
        if not isinstance(saved, dict) or not isinstance(saved.get("tokens"), list):
            raise ValueError("expected an object with 'kind' and a list of 'tokens'")
        if saved.get("kind") not in list(kinds):
            raise ValueError(f"expected kind {' or '.join(kinds)}, got {saved.get('kind')!r}")
        return kinds[saved["kind"]](saved["tokens"])
    except ValueError as error:
        raise ValueError(f"{path} is not a saved tokenizer: {error}") from error


def _distinct(tokens):
    tokens = list(tokens)
    for token in tokens:
        _check_unicode(token)
    if len({"", *tokens}) < len(tokens) + 1:
        token, count = max(Counter(tokens).items(), key=lambda item: (item[0] == "", item[1]))
        raise ValueError(
            f"expected distinct tokens, none of them empty, got {token!r} {count} times "
            "(from_text makes a tokenizer from a text)"
        )
    return tokens


def _check_unicode(text):
    if not isinstance(text, str):
        raise ValueError(f"expected str, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"expected Unicode text, got U+{ord(text[error.start]):04X} at place {error.start}: "
            "half of a surrogate pair, which is no character"
        ) from error
    return text
