"""From text to token ids and back: characters, or words.

    text = load_corpus("tiny-shakespeare")
    tokenizer = CharTokenizer.from_text(text)   # or WordTokenizer.from_text(text, d_vocab=4096)
    tokens = tokenizer.encode(text)             # (seq,) int64
    tokenizer.decode(tokens) == text            # always

Built in chapters/11-shakespeare. What corpora there are, and whose: `decoder.corpora`; the
tokenizers: `decoder.tokenizers`.
"""

from decoder.checks import as_ids
from decoder.corpora import CORPORA, CorpusNotFound, load_corpus
from decoder.tokenizers import CharTokenizer, WordTokenizer, load_tokenizer, split_words

__all__ = [
    "CORPORA", "CharTokenizer", "CorpusNotFound", "WordTokenizer",
    "as_ids", "load_corpus", "load_tokenizer", "split_words",
]  # fmt: skip
