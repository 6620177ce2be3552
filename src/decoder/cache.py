"""The key-value cache: what earlier positions computed, so that it is not computed again."""

from decoder.checks import check_tokens, is_whole


class LayerCache:
    """The keys and values of one layer.

    They lie in buffers of n_ctx positions, made when the first keys come (whose batch, heads,
    width, dtype and device they take), so that adding a token copies that token only.

    Args:
        n_ctx: Positions that there is room for.
    """

    def __init__(self, n_ctx):
        self.n_ctx = n_ctx
        self.length = 0
        self.k = self.v = None
        # Weights that a fast twin rearranged: good as long as the keys, which came from them.
        self.joined = None

    def append(self, k, v):
        """Add the keys and values of the next positions.

        Args:
            k: (batch, n_heads, seq, d_head), after rotation where the scheme rotates.
            v: (batch, n_heads, seq, d_value).

        Returns:
            All keys, (batch, n_heads, length, d_head), and all values: views, not copies.

        Raises:
            ValueError: there is no room, or the shapes do not fit what is there.
        """
        if k.ndim != 4 or v.ndim != 4 or k.shape[:3] != v.shape[:3]:
            raise ValueError(
                f"expected k and v of (batch, n_heads, seq, width), "
                f"got {tuple(k.shape)} and {tuple(v.shape)}"
            )
        start, end = self.length, self.length + k.shape[2]
        if end > self.n_ctx:
            raise ValueError(
                f"expected at most n_ctx={self.n_ctx} positions, "
                f"got {k.shape[2]} after {start} cached"
            )
        self.k, self.v = self._buffer(self.k, k), self._buffer(self.v, v)
        # `narrow(2, ...)` is `[:, :, ...]` in half the time, of which a token has little.
        self.k.narrow(2, start, end - start).copy_(k)
        self.v.narrow(2, start, end - start).copy_(v)
        self.length = end
        return self.k.narrow(2, 0, end), self.v.narrow(2, 0, end)

    def _buffer(self, buffer, x):
        batch, n_heads, _, width = x.shape
        shape = (batch, n_heads, self.n_ctx, width)
        if buffer is None:
            return x.new_empty(shape)
        if buffer.shape != shape:
            raise ValueError(f"expected as cached {tuple(buffer.shape)}, got {tuple(x.shape)}")
        return buffer


class KeyValueCache:
    """The keys and values of all layers: `model(tokens, cache)` reads them and adds its own.

    Args:
        config: `Config`; n_layers and n_ctx are used.

    It is good for one model, and for its weights as they are: `clear` it when they change.
    Gradients are not meant to flow through it: use it within `torch.no_grad()`.

    Built in chapters/12-generation.
    """

    def __init__(self, config):
        self.layers = [LayerCache(config.n_ctx) for _ in range(config.n_layers)]

    def __getitem__(self, layer):
        return self.layers[layer]

    @property
    def length(self):
        """Positions cached. Read before the blocks run: each of them then adds to its layer."""
        return self.layers[0].length

    @property
    def n_bytes(self):
        """Memory of keys and values, in bytes: 0 before the first tokens, then `cache_bytes`."""
        buffers = [x for layer in self.layers for x in (layer.k, layer.v) if x is not None]
        return sum(x.numel() * x.element_size() for x in buffers)

    def clear(self):
        """Forget all positions; the memory is kept."""
        for layer in self.layers:
            layer.length, layer.joined = 0, None

    def reorder(self, rows):
        """Let row i of the batch go on from what was row rows[i], as beam search needs it.

        Args:
            rows: (batch,), int64.

        Raises:
            ValueError: rows are as many as the batch has not.
        """
        for layer in self.layers:
            if layer.k is None or rows.shape != layer.k.shape[:1]:
                came = "an empty cache" if layer.k is None else f"a batch of {len(layer.k)}"
                raise ValueError(
                    f"expected a row for each of the batch, got {len(rows)} and {came}"
                )
            for buffer in (layer.k, layer.v):
                buffer[:, :, : layer.length] = buffer[rows, :, : layer.length]


def cache_bytes(config, batch, bytes_per_number=4):
    """Memory of a `KeyValueCache`: 2 (k and v) * n_layers * batch * n_heads * n_ctx * d_head.

    Args:
        config: `Config`.
        batch: Sequences.
        bytes_per_number: 4 for float32, 2 for bfloat16.
    """
    numbers = 2 * config.n_layers * batch * config.n_heads * config.n_ctx * config.d_head
    return numbers * bytes_per_number


class Context:
    """What a model sees of a sequence that grows, also beyond n_ctx.

    Up to n_ctx tokens it sees all of them. A sequence that outgrows n_ctx is read on through a
    window: the last n_ctx // 2 tokens (at least one) become a prompt of their own, with
    positions from 0, the window grows to n_ctx again, and so on. Both ways of computing, with a
    cache and without, follow this one rule and give the same logits. (Moving the window by one
    token each time would leave nothing to cache: every token would change its position.)

    Args:
        model: `Decoder`.
        use_cache: Whether to keep keys and values, or to compute them all again for each token.
    """

    def __init__(self, model, use_cache=True):
        self.model, self.n_ctx = model, model.config.n_ctx
        self.cache = KeyValueCache(model.config) if use_cache else None
        self.start = 0

    def next_logits(self, tokens):
        """What the model expects next.

        Args:
            tokens: The whole sequence so far, (batch, seq); each call's goes on from the last's.

        Returns:
            logits, (batch, d_vocab), of the position after the last.

        Raises:
            ValueError: a row of them has NaN, +inf, or nothing above -inf.
        """
        seq = tokens.shape[1]
        if seq - self.start > self.n_ctx:
            self.start = seq - max(1, self.n_ctx // 2)
            if self.cache is not None:
                self.cache.clear()
        seen = self.start + (0 if self.cache is None else self.cache.length)
        logits = self.model(tokens[:, seen:], self.cache)[:, -1]
        if not logits.amax(dim=-1).isfinite().all():
            raise ValueError("expected logits that are numbers, got NaN or infinity from the model")
        return logits

    def reorder(self, rows):
        """Let row i go on from what was row rows[i]; see `KeyValueCache.reorder`."""
        if self.cache is not None:
            self.cache.reorder(rows)


def check_prompt(model, tokens, max_new_tokens, stop_token=None):
    """Raise ValueError where a prompt cannot be written on from; names what was expected."""
    n_ctx, d_vocab = model.config.n_ctx, model.config.d_vocab
    check_tokens(tokens)
    if tokens.shape[1] > n_ctx:
        raise ValueError(
            f"expected a prompt of at most n_ctx={n_ctx} tokens, got {tokens.shape[1]}"
        )
    if not is_whole(max_new_tokens) or max_new_tokens < 0:
        raise ValueError(f"expected max_new_tokens of 0 or more, got {max_new_tokens!r}")
    if stop_token is not None and not (is_whole(stop_token) and 0 <= stop_token < d_vocab):
        raise ValueError(f"expected a stop_token from 0 to {d_vocab - 1}, got {stop_token!r}")
