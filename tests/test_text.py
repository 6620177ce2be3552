"""Corpora and tokenizers. The only server is on loopback; real text where it is at hand."""

import errno
import hashlib
import http.server
import os
import threading
from pathlib import Path

import numpy
import platformdirs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decoder import corpora, files, progress
from decoder.corpora import Corpus, strip_gutenberg
from decoder.files import write_whole
from decoder.text import (
    CORPORA,
    CharTokenizer,
    CorpusNotFound,
    WordTokenizer,
    as_ids,
    load_corpus,
    load_tokenizer,
    split_words,
)

SHARED = Path(__file__).parents[2] / "shared" / "data"
BODY = b"\xef\xbb\xbfTo be,\r\nor not to be \xe2\x80\x93 that.\r\n"
TEXT = "To be,\nor not to be – that.\n"
START = "*** START OF THE PROJECT GUTENBERG EBOOK THE COMPLETE WORKS ***"
END = "*** END OF THE PROJECT GUTENBERG EBOOK THE COMPLETE WORKS ***"


def leftovers(folder):
    return sorted(str(path) for path in folder.rglob("*") if path.is_file())


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.paths.append(self.path)
        if self.path == "/garbage":
            return self.wfile.write(b"this is no HTTP\r\n\r\n")
        if self.path in ("/404", "/500"):
            return self.send_error(int(self.path[1:]))
        body = b"<html>log in first</html>" if self.path == "/other" else BODY
        self.send_response(200)
        if self.path != "/unannounced":
            longer = 500 if self.path == "/truncated" else 0
            self.send_header("Content-Length", str(len(body) + longer))
        self.end_headers()
        if self.path == "/slow":
            self.wfile.write(body[:5])
            self.wfile.flush()
            self.server.over.wait(10)
        else:
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.over = threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache, no folder of corpora, no proxy."""
    folder = tmp_path / "cache" / "corpora"
    monkeypatch.setattr(corpora, "cache_folder", lambda: folder)
    monkeypatch.delenv("DECODER_CORPORA", raising=False)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    return folder


@pytest.fixture
def publish(monkeypatch, server, cache):
    """Put a corpus called "play" at a path of the server."""
    server.paths = []

    def publish(path="/good", sha256=hashlib.sha256(BODY).hexdigest(), **changes):  # noqa: B008
        url = changes.pop("url", f"http://127.0.0.1:{server.server_port}{path}")
        corpus = Corpus(name="play", filename="play.txt", url=url, sha256=sha256, **changes)
        monkeypatch.setitem(CORPORA, "play", corpus)
        return server

    return publish


# Named corpora


def test_what_is_downloaded_is_kept_as_published_and_not_fetched_again(publish, cache):
    server = publish()
    assert load_corpus("play") == TEXT
    assert leftovers(cache) == [str(cache / "play.txt")]
    assert (cache / "play.txt").read_bytes() == BODY
    assert load_corpus("play") == TEXT
    assert server.paths == ["/good"]


def test_a_length_need_not_be_announced(publish):
    publish("/unannounced")
    assert load_corpus("play") == TEXT


def test_the_named_folder_goes_before_the_cache_and_the_cache_before_the_network(
    publish, cache, monkeypatch, tmp_path
):
    server = publish(sha256=None)
    cache.mkdir(parents=True)
    (cache / "play.txt").write_text("from the cache")
    assert load_corpus("play") == "from the cache"
    monkeypatch.setenv("DECODER_CORPORA", str(tmp_path))
    assert load_corpus("play") == "from the cache"  # the named folder has none
    (tmp_path / "play.txt").write_text("from the folder")
    assert load_corpus("play") == "from the folder"
    assert server.paths == []


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/truncated", rf"broke off after {len(BODY)} of {len(BODY) + 500} bytes"),
        ("/other", r"expected sha256 [0-9a-f]{64}, got [0-9a-f]{64} \(25 bytes\)"),
        ("/404", "404"),
        ("/500", "500"),
        ("/slow", "timed out"),
        ("/garbage", "BadStatusLine"),
    ],
)
def test_a_failed_download_says_why_and_leaves_nothing(publish, cache, monkeypatch, path, reason):
    monkeypatch.setattr(files, "TIMEOUT", 0.3)
    server = publish(path)
    with pytest.raises(CorpusNotFound, match=reason) as raised:
        load_corpus("play")
    assert isinstance(raised.value, OSError)
    message = str(raised.value)
    for said in ("'play'", str(cache / "play.txt"), f":{server.server_port}{path}"):
        assert said in message
    for advice in ("DECODER_CORPORA: not set", "Set DECODER_CORPORA", "path", '"pydoc"'):
        assert advice in message
    assert leftovers(cache.parent) == []


def test_the_error_names_the_folder_that_was_looked_in(publish, monkeypatch, tmp_path):
    publish("/404")
    monkeypatch.setenv("DECODER_CORPORA", str(tmp_path / "mine"))
    with pytest.raises(CorpusNotFound) as raised:
        load_corpus("play")
    assert str(tmp_path / "mine" / "play.txt") in str(raised.value)
    assert "not set" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "reason"), [("http://127.0.0.1:{port}/", "refused"), ("play", "unknown url type")]
)
def test_no_server_and_no_address(publish, cache, url, reason):
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as closed:
        port = closed.server_port
    publish(url=url.format(port=port))
    with pytest.raises(CorpusNotFound, match=reason):
        load_corpus("play")
    assert leftovers(cache.parent) == []


def no_space(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_no_space(publish, cache, monkeypatch, step):
    publish()
    monkeypatch.setattr(os, step, no_space)
    with pytest.raises(CorpusNotFound, match=os.strerror(errno.ENOSPC)) as raised:
        load_corpus("play")
    assert raised.value.__cause__.errno == errno.ENOSPC
    assert str(cache / "play.txt") in str(raised.value.__cause__)
    assert leftovers(cache.parent) == []


def test_a_page_that_is_no_gutenberg_text_is_not_kept(publish, cache):
    publish("/other", sha256=None, clean=strip_gutenberg)
    with pytest.raises(CorpusNotFound, match=r"what came is not 'play': .*\*\*\* START OF"):
        load_corpus("play")
    assert leftovers(cache.parent) == []


def test_a_damaged_file_is_named_with_both_checksums_and_kept(publish, cache):
    server = publish()
    cache.mkdir(parents=True)
    (cache / "play.txt").write_bytes(BODY[:-1])
    with pytest.raises(ValueError) as raised:
        load_corpus("play")
    digests = [hashlib.sha256(data).hexdigest() for data in (BODY, BODY[:-1])]
    for said in (str(cache / "play.txt"), *digests, f"{len(BODY) - 1} bytes", "Delete it"):
        assert said in str(raised.value)
    assert (cache / "play.txt").read_bytes() == BODY[:-1]
    assert server.paths == []


@pytest.mark.parametrize("watched", [True, False])
def test_the_bar_counts_the_bytes_and_shows_only_where_somebody_watches(
    publish, monkeypatch, watched
):
    bars = []

    class Bar(progress.tqdm):
        def __init__(self, *args, **kwargs):
            bars.append(kwargs | {"seen": 0})
            super().__init__(*args, **(kwargs | {"disable": True}))

        def update(self, n=1):
            bars[-1]["seen"] += n

    monkeypatch.setattr(progress, "tqdm", Bar)
    if watched:
        monkeypatch.setenv("JPY_SESSION_NAME", "chapter.ipynb")
    publish()
    load_corpus("play")
    (bar,) = bars
    assert bar["total"] == bar["seen"] == len(BODY)
    assert bar["disable"] is not watched
    assert bar["desc"] == "play"


def test_the_corpora_that_are_known():
    assert list(CORPORA) == ["tiny-shakespeare", "shakespeare"]
    for corpus in CORPORA.values():
        assert corpus.url.startswith("https://")
    assert len(CORPORA["tiny-shakespeare"].sha256) == 64
    assert CORPORA["shakespeare"].sha256 is None
    assert CORPORA["shakespeare"].clean is strip_gutenberg
    assert corpora.cache_folder().is_relative_to(platformdirs.user_cache_path())


@pytest.fixture
def real_text(cache, monkeypatch, tmp_path):
    """Tiny Shakespeare where it is at hand, else pydoc under its name and with its checksum."""
    if not (SHARED / "tinyshakespeare.txt").exists():
        data = load_corpus("pydoc").encode()
        (tmp_path / "tinyshakespeare.txt").write_bytes(data)
        sha256 = hashlib.sha256(data).hexdigest()
        stand_in = Corpus("tiny-shakespeare", "tinyshakespeare.txt", "no address", sha256)
        monkeypatch.setitem(CORPORA, "tiny-shakespeare", stand_in)
        monkeypatch.setenv("DECODER_CORPORA", str(tmp_path))
    else:
        monkeypatch.setenv("DECODER_CORPORA", str(SHARED))
    return load_corpus("tiny-shakespeare")


def test_real_text_comes_and_goes_through_both_tokenizers(real_text):
    folder = Path(os.environ["DECODER_CORPORA"])
    assert real_text.encode() == (folder / "tinyshakespeare.txt").read_bytes()
    if folder == SHARED:
        assert len(real_text) == 1_115_394
        assert CharTokenizer.from_text(real_text).d_vocab == 65
    words = WordTokenizer.from_text(real_text[: len(real_text) // 2], d_vocab=2003)
    assert words.d_vocab == 2003
    for tokenizer in (CharTokenizer.from_text(real_text), words):
        tokens = tokenizer.encode(real_text)
        assert tokenizer.decode(tokens) == real_text
    assert len(words.encode(real_text)) < 0.7 * len(real_text)


def test_gutenberg_is_cut_at_its_markers(publish, cache):
    folder_text = (
        f"\ufeffThe header\r\n{START}\r\n\r\n\r\n  THE SONNETS\r\n\r\n1\r\n\r\n{END}\r\nlicence"
    )
    publish(sha256=None, clean=strip_gutenberg)
    cache.mkdir(parents=True)
    (cache / "play.txt").write_bytes(folder_text.encode())
    assert load_corpus("play") == "  THE SONNETS\n\n1\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", r"\*\*\* START OF"),
        (f"words\n{END}\n", r"\*\*\* START OF"),
        (f"{START}\nwords\n", r"\*\*\* END OF"),
        (f"{END}\nwords\n{START}\nwords", r"\*\*\* END OF"),
        (f"{START}\n \n{END}\n", "between"),
        (f"he said {START}\nwords\n{END}", r"\*\*\* START OF"),
    ],
)
def test_gutenberg_without_its_markers(text, expected):
    with pytest.raises(ValueError, match=expected):
        strip_gutenberg(text)


def test_gutenberg_titles_may_run_over_two_lines_and_old_ones_say_this():
    start = "***START OF THIS PROJECT GUTENBERG EBOOK THE COMPLETE\nWORKS***"
    assert strip_gutenberg(f"{start}\nI\n{END}") == "I\n"


def test_pydoc_needs_no_network_and_is_in_order():
    text = load_corpus("pydoc")
    assert text == load_corpus("pydoc")
    assert len(text) > 300_000
    assert "\r" not in text
    places = [text.index(start) for start in ('The "assert" statement', 'The "try" statement')]
    assert places == sorted(places)
    from pydoc_data.topics import topics

    first, *_, last = sorted(topics)
    assert text.startswith(topics[first].strip("\n"))
    assert text.endswith(topics[last].strip("\n") + "\n")
    assert all(topic.strip("\n") in text for topic in topics.values())


# Files


@pytest.mark.parametrize("kind", [str, Path])
def test_any_utf8_file(tmp_path, kind):
    (tmp_path / "my text").write_bytes(BODY + b"a\rb\r\n\r\n\xef\xbb\xbfc")
    assert load_corpus(kind(tmp_path / "my text")) == TEXT + "a\nb\n\n\ufeffc"


def test_a_path_object_is_never_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pydoc").write_text("mine")
    assert load_corpus(Path("pydoc")) == "mine"
    assert load_corpus("./pydoc") == "mine"
    assert load_corpus("pydoc") != "mine"


def test_the_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "mine.txt").write_text("mine")
    assert load_corpus("~/mine.txt") == "mine"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "got 0 bytes"),
        (b"\xef\xbb\xbf", "got 3 bytes"),
        (b" \n\t\r\n", "got 5 bytes"),
        (b"caf\xe9 cr\xe8me", "byte 0xe9 at offset 3"),
        (b"\xef\xbb\xbfcaf\xe9", "byte 0xe9 at offset 6"),
        ("hé".encode("utf-16"), "byte 0xff at offset 0"),
        ("hi".encode("utf-16-le"), "byte 0x00 at offset 1"),
        (b"\x7fELF\x00\x01", "byte 0x00 at offset 4"),
        (b"cut \xe2\x80", "byte 0xe2 at offset 4"),
    ],
)
def test_a_file_that_is_no_text_is_named_with_what_is_wrong(tmp_path, data, expected):
    (tmp_path / "mine.txt").write_bytes(data)
    with pytest.raises(ValueError, match=expected) as raised:
        load_corpus(tmp_path / "mine.txt")
    assert str(tmp_path / "mine.txt") in str(raised.value)


@pytest.mark.parametrize("given", ["", "tiny-shakespear", "no/such.txt", Path("nowhere"), "a\0b"])
def test_neither_a_name_nor_a_file(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as raised:
        load_corpus(given)
    for said in (repr(str(given)), "tiny-shakespeare, shakespeare, pydoc", "path"):
        assert said in str(raised.value)


def test_a_folder_is_no_text(tmp_path):
    with pytest.raises(IsADirectoryError, match="expected a file.*folder") as raised:
        load_corpus(tmp_path)
    assert str(tmp_path) in str(raised.value)


@pytest.mark.parametrize("given", [None, 5, b"pydoc", ["pydoc"]])
def test_neither_str_nor_path(given):
    with pytest.raises(ValueError, match="expected a corpus name or a path, got"):
        load_corpus(given)


def test_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    write_whole(path, b"old")
    write_whole(str(path), b"newer")
    assert path.read_bytes() == b"newer"
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()
    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(OSError) as raised:
        write_whole(path, b"lost")
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_bytes() == b"newer"
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, b"lost")
    assert leftovers(tmp_path) == [str(path)]
    with pytest.raises(FileNotFoundError, match="cannot write x: there is no folder.*absent"):
        write_whole(tmp_path / "absent" / "x", b"")


def test_the_bytes_are_on_the_disk_before_they_take_the_place_of_the_old(tmp_path, monkeypatch):
    order = []
    for step in ("fsync", "replace"):
        real = getattr(os, step)
        monkeypatch.setattr(os, step, lambda *a, s=step, r=real: order.append(s) or r(*a))
    write_whole(tmp_path / "x", b"bytes")
    assert order == ["fsync", "replace"]


def interrupt(*args):
    raise KeyboardInterrupt


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


# Tokenizers

SAMPLE = "the cat, the dog and the café – naïve “dog”.\n\nthe\tend"
WORDS = WordTokenizer.from_text(SAMPLE, d_vocab=263)


@settings(deadline=None)  # a busy machine is no failure
@given(st.text(min_size=1))
def test_characters_lose_nothing_of_any_text_they_were_made_from(text):
    tokenizer = CharTokenizer.from_text(text)
    tokens = tokenizer.encode(text)
    assert tokens.shape == (len(text),)
    assert tokens.dtype == torch.int64
    assert tokenizer.d_vocab == len(set(text))
    assert tokenizer.decode(tokens) == text
    assert tokenizer.tokens(tokens) == list(text)


@settings(deadline=None)  # a busy machine is no failure
@given(st.text())
def test_words_lose_nothing_of_any_text(text):
    tokens = WORDS.encode(text)
    assert tokens.dtype == torch.int64
    assert WORDS.decode(tokens) == text


@settings(deadline=None)  # a busy machine is no failure
@given(st.text(), st.text(min_size=1), st.integers(256, 300))
def test_words_lose_nothing_whatever_they_were_made_from(text, other, d_vocab):
    tokenizer = WordTokenizer.from_text(other, d_vocab=d_vocab)
    assert tokenizer.d_vocab <= d_vocab
    assert tokenizer.decode(tokenizer.encode(text + other)) == text + other


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(st.integers(0, WORDS.d_vocab - 1)))
def test_any_ids_can_be_decoded(ids):
    decoded = WORDS.decode(ids)
    decoded.encode()  # Unicode text
    assert len(WORDS.tokens(ids)) == len(ids)
    assert WORDS.decode(WORDS.encode(decoded)) == decoded


def test_the_pieces_and_the_empty_strings():
    assert split_words("Ay, me.\n\nO!") == ["Ay", ", ", "me", ".\n\n", "O", "!"]
    assert split_words("Ay me") == ["Ay", " ", "me"]
    assert split_words("") == []


def test_the_most_frequent_words_are_tokens_and_the_first_seen_goes_first():
    tokenizer = WordTokenizer.from_text("b a b a c d", d_vocab=256 + 4)
    assert tokenizer.token_strings[256:] == [" ", "b", "a", "c"]
    tokens = tokenizer.encode("a b d")
    assert tokens.tolist() == [258, 256, 257, 256, ord("d")]
    assert WordTokenizer.from_text("a b", d_vocab=999).d_vocab == 256 + 3
    assert WordTokenizer.from_text("a b", d_vocab=256).d_vocab == 256


def test_rare_words_are_spelled_in_bytes_that_decode_together():
    tokens = WORDS.encode("“ça”")
    assert tokens.tolist() == list("“ça”".encode())
    assert WORDS.tokens(tokens)[:3] == ["<0xE2>", "<0x80>", "<0x9C>"]
    assert WORDS.tokens(WORDS.encode("ox")) == ["o", "x"]
    assert WORDS.decode(tokens) == "“ça”"
    assert WORDS.decode(tokens[:2]) == "\ufffd"
    assert WORDS.encode("the").tolist() == [257]
    assert WORDS.tokens([257]) == ["the"]


def test_characters_have_the_ids_of_their_order():
    tokenizer = CharTokenizer.from_text("to be")
    assert tokenizer.token_strings == [" ", "b", "e", "o", "t"]
    assert tokenizer.encode("bet").tolist() == [1, 2, 4]
    assert repr(tokenizer) == "CharTokenizer(d_vocab=5)"


def test_an_unknown_character_is_named_with_its_place():
    with pytest.raises(ValueError, match=r"the 5 characters .*got 'é' \(U\+00E9\) at place 3"):
        CharTokenizer.from_text("to be").encode("to é é")


@pytest.mark.parametrize("tokenizer", [WORDS, CharTokenizer.from_text(SAMPLE)])
def test_nothing_is_encoded_and_decoded_as_nothing(tokenizer):
    tokens = tokenizer.encode("")
    assert tokens.shape == (0,)
    assert tokens.dtype == torch.int64
    assert tokenizer.decode(tokens) == tokenizer.decode([]) == ""


@pytest.mark.parametrize("tokenizer", [WORDS, CharTokenizer.from_text(SAMPLE)])
@pytest.mark.parametrize(
    "ids", [[2, 3, 5], (2, 3, 5), numpy.array([2, 3, 5]), torch.tensor([2, 3, 5])]
)
def test_ids_of_any_make(tokenizer, ids):
    assert tokenizer.decode(ids) == "".join(tokenizer.token_strings[i] for i in (2, 3, 5))


@pytest.mark.parametrize(
    ("ids", "got"),
    [
        ([0, 7], "got 7 at place 1"),
        ([0, 3, -1], "got -1 at place 2"),
        ([[0], [1]], r"got \(2, 1\) torch.int64"),
        (3, r"got \(\) torch.int64"),
        ([0.5], r"got \(1,\) torch.float32"),
        ([True], r"got \(1,\) torch.bool"),
        ("to", "got 'to'"),
        (None, "got None"),
    ],
)
def test_what_are_no_ids(ids, got):
    with pytest.raises(ValueError, match=rf"expected .*{got}"):
        as_ids(ids, 7)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_ids_become_int64(dtype):
    ids = as_ids(torch.tensor([2, 0, 5], dtype=dtype), 7)
    assert ids.dtype == torch.int64 and ids.tolist() == [2, 0, 5]
    assert as_ids([], 7).dtype == torch.int64


@pytest.mark.parametrize("call", [WORDS.decode, WORDS.tokens, CharTokenizer.from_text("ab").decode])
def test_ids_outside_the_vocabulary_are_refused(call):
    with pytest.raises(ValueError, match=r"expected ids in \[0, \d+\), got -1 at place 0"):
        call([-1])


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: CharTokenizer.from_text(""), "distinct tokens|at least one"),
        (lambda: CharTokenizer.from_text(None), "expected str, got NoneType"),
        (lambda: CharTokenizer.from_text("ab\udc80"), r"got U\+DC80 at place 2"),
        (lambda: CharTokenizer("abcb"), "distinct .*got 'b' 2 times.*from_text"),
        (lambda: CharTokenizer(["a", "bc"]), "single characters, got 'bc'"),
        (lambda: CharTokenizer(["a", 5]), "expected str, got int"),
        (lambda: CharTokenizer.from_text("ab").encode(b"ab"), "expected str, got bytes"),
        (lambda: CharTokenizer.from_text("ab").encode("a\ud800"), r"got U\+D800 at place 1"),
        (lambda: WordTokenizer.from_text("a b", d_vocab=255), "at least 256, got 255"),
        (lambda: WordTokenizer.from_text("a b", d_vocab="all"), "at least 256, got 'all'"),
        (lambda: WordTokenizer(["a", ""]), "got '' 1 times"),
        (lambda: WORDS.encode(5), "expected str, got int"),
        (lambda: WORDS.encode("a \ud83d\ude00"), r"got U\+D83D at place 2"),
        (lambda: split_words(None), "expected str, got NoneType"),
    ],
)
def test_bad_input_is_named(call, expected):
    with pytest.raises(ValueError, match=expected):
        call()


@pytest.mark.parametrize("tokenizer", [WORDS, CharTokenizer.from_text(SAMPLE + "\u2028\x00😀")])
def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = load_tokenizer(str(tmp_path / "tokenizer.json"))
    assert type(loaded) is type(tokenizer)
    assert loaded.token_strings == tokenizer.token_strings
    assert loaded.encode(SAMPLE).tolist() == tokenizer.encode(SAMPLE).tolist()
    assert leftovers(tmp_path) == [str(tmp_path / "tokenizer.json")]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "Expecting value"),
        (b"\xff", "codec can't decode"),
        (b"[]", "'tokens'"),
        (b"{}", "'tokens'"),
        (b'{"kind": "CharTokenizer", "tokens": "ab"}', "'tokens'"),
        (b'{"kind": "Bytes", "tokens": []}', "CharTokenizer or WordTokenizer, got 'Bytes'"),
        (b'{"kind": [], "tokens": []}', r"CharTokenizer or WordTokenizer, got \[\]"),
        (b'{"kind": "CharTokenizer", "tokens": ["a", "a"]}', "got 'a' 2 times"),
        (b'{"kind": "WordTokenizer", "tokens": ["a", 1]}', "expected str, got int"),
    ],
)
def test_what_is_no_saved_tokenizer(tmp_path, data, expected):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=expected) as raised:
        load_tokenizer(path)
    assert str(path) in str(raised.value)


def test_no_saved_tokenizer(tmp_path):
    with pytest.raises(FileNotFoundError, match="tokenizer.json"):
        load_tokenizer(tmp_path / "tokenizer.json")
