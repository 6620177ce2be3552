"""What a head looks at, as one number between 0 and 1 for each head."""

import torch

from decoder.interpret.trace import capture
from decoder.tasks.base import check_enough, distinct


def repeated_tokens(d_vocab, period, batch_size, generator=None):
    """Random tokens, all different, and then the same again: text that only its own past predicts.

    Args:
        d_vocab: Tokens to draw from, at least period.
        period: Tokens before the repetition, at least 2.
        batch_size: Sequences.
        generator: A `torch.Generator` on the CPU; torch's own if None.

    Returns:
        (batch_size, 2 * period), int64.

    Raises:
        ValueError: period is below 2 or above d_vocab.

    Source: Olsson et al. 2022, who repeat more often. Built in chapters/13-heads.
    """
    check_enough("period", period, "2", 2)
    check_enough("d_vocab", d_vocab, "period", period)
    return distinct(d_vocab, period, batch_size, generator).repeat(1, 2)


@torch.no_grad()
def head_scores(model, tokens):
    """All four scores of every head, in one forward pass.

    Args:
        model: A `Decoder` whose attention gives its pattern.
        tokens: (batch, seq), in which some come again; see `repeated_tokens`.

    Returns:
        A dict of (n_layers, n_heads) tensors: "previous", "first", "duplicate", "induction".

    Raises:
        ValueError: no token comes again, or a layer gave no pattern.

    Built in chapters/13-heads.
    """
    with capture(model) as trace:
        model(tokens)
    kinds = {
        "previous": previous_token_score,
        "first": first_token_score,
        "duplicate": lambda pattern: duplicate_token_score(pattern, tokens),
        "induction": lambda pattern: induction_score(pattern, tokens),
    }
    return {
        kind: torch.stack([score(pattern) for pattern in trace.pattern])
        for kind, score in kinds.items()
    }


def previous_token_score(pattern):
    """How much of its attention a head puts on the token just before.

    The mean of pattern[i, i - 1] over a batch and its queries i >= 2; at i = 1 the token before
    is also the first one, and no score could tell the two apart.

    Args:
        pattern: Of whole sequences, (batch, n_heads, seq, seq), seq >= 3.

    Returns:
        (n_heads,), each from 0 to 1.

    Raises:
        ValueError: pattern has another shape.

    Source: Elhage et al. 2021 (previous token heads). Built in chapters/13-heads.
    """
    seq = _checked_seq(pattern)
    before = torch.eye(seq, dtype=torch.bool, device=pattern.device).roll(-1, dims=1)
    return _mean_weight(pattern, _from_query_2(before))


def first_token_score(pattern):
    """How much of its attention a head puts on the first token: often, where it has nothing to do.

    The mean of pattern[i, 0] over a batch and its queries i >= 2, for the reason given in
    `previous_token_score`; takes, returns and raises the same.

    Source: Xiao et al. 2023 (attention sinks). Built in chapters/13-heads.
    """
    seq = _checked_seq(pattern)
    first = torch.zeros(seq, seq, dtype=torch.bool, device=pattern.device)
    first[:, 0] = True
    return _mean_weight(pattern, _from_query_2(first))


def duplicate_token_score(pattern, tokens):
    """How much of its attention a head puts on earlier places with the same token.

    For each query i whose token has come before: the sum of pattern[i, j] over all keys j < i
    with tokens[j] == tokens[i]. Then the mean over all these queries.

    Args:
        pattern: Of whole sequences, (batch, n_heads, seq, seq), seq >= 3.
        tokens: What the model read, (batch, seq); at its best random, and repeated.

    Returns:
        (n_heads,), each from 0 to 1. What no head needs skill for is the same score of a
        uniform pattern, `mask / mask.sum(-1, keepdim=True)`.

    Raises:
        ValueError: the shapes do not fit, or no token comes again.

    Source: Wang et al. 2022, section 3 (duplicate token heads). Built in chapters/13-heads.
    """
    return _mean_weight(pattern, _same_before(pattern, tokens))


def induction_score(pattern, tokens):
    """How much of its attention a head puts on what came next the last times: prefix matching.

    For each query i whose token has come before: the sum of pattern[i, j] over all keys j < i
    with tokens[j - 1] == tokens[i]. Then the mean over all queries that have such a key. On
    random tokens repeated once with period p this is the mean of pattern[i, i - p + 1] over the
    second half, apart from tokens that chance repeats.

    Takes, returns and raises what `duplicate_token_score` does.

    Source: Olsson et al. 2022, "Prefix matching score" (with four repeats and a start token).
    Built in chapters/13-heads.
    """
    followed = _same_before(pattern, tokens).roll(1, dims=-1)  # key j - 1 matches: j counts
    # Where a token comes twice in a row, the key after its first place is the query itself.
    return _mean_weight(pattern, followed.tril(-1))


def _mean_weight(pattern, wanted):
    """Attention on wanted keys, averaged over the queries that have one.

    pattern is (batch, n_heads, seq, seq), wanted (seq, seq) or (batch, seq, seq).
    """
    wanted = wanted.expand(pattern.shape[0], -1, -1)  # (batch, seq_q, seq_k)
    queries = wanted.any(dim=-1)  # (batch, seq_q)
    if not queries.any():
        raise ValueError("expected tokens of which some come again, got none that does")
    weight = (pattern * wanted[:, None]).sum(dim=-1)  # (batch, n_heads, seq_q)
    return weight.transpose(0, 1)[:, queries].mean(dim=-1)  # (n_heads,)


def _same_before(pattern, tokens):
    """(batch, seq_q, seq_k), True where an earlier key has the query's token."""
    _checked_seq(pattern)
    if tokens.shape != pattern.shape[::2]:
        raise ValueError(
            f"expected tokens of {tuple(pattern.shape[::2])}, got {tuple(tokens.shape)}"
        )
    return (tokens[:, :, None] == tokens[:, None, :]).tril(-1)


def _from_query_2(wanted):
    rows = torch.arange(wanted.shape[0], device=wanted.device)
    return wanted & (rows >= 2)[:, None]


def _checked_seq(pattern):
    if pattern.ndim != 4 or pattern.shape[-1] != pattern.shape[-2] or pattern.shape[-1] < 3:
        raise ValueError(
            "expected the pattern of whole sequences of 3 tokens or more, "
            f"(batch, n_heads, seq, seq), got {tuple(pattern.shape)}"
        )
    return pattern.shape[-1]
