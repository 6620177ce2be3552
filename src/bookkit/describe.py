"""Text alternatives from the data: what an attentive reader would say that a figure shows."""

import numpy as np

from bookkit.check import visible

MOST_HEADS = 16
MOST_CHARACTERS = 400


def list_tokens(tokens):
    """Tokens as one text, cut where it gets long."""
    text = " ".join(map(visible, tokens))
    return text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + "…"


def attention(heads, tokens, causal):
    """Say where the heads look.

    Args:
        heads: Weights, (n_heads, seq_q, seq_k).
        tokens: seq_k strings.
        causal: Whether nothing after the query has weight.

    Returns:
        A text of at most some 2000 characters.
    """
    n_heads, seq = heads.shape[:2]
    what = "one head" if n_heads == 1 else f"{n_heads} heads"
    text = f"Heat map of the attention of {what} over {seq} tokens: {list_tokens(tokens)}. "
    if causal:
        text += "Nothing after the query has weight. "
    for number, head in enumerate(heads[:MOST_HEADS]):
        name = "It gives" if n_heads == 1 else f"Head {number} gives"
        text += f"{name} {_habit(head)}; {_strongest(head, tokens)}. "
    return text.strip()


def _habit(head):
    """The place that gets most of the weight on average.

    The first query counts only where it is alone: it has no token before it, and with a causal
    mask no choice.
    """
    shares = {"the token itself": head.diagonal()[_choosing(head)].mean()}
    if len(head) > 1:
        shares["the token before"] = head.diagonal(-1).mean()
        shares["the first token"] = head[1:, 0].mean()
    place = max(shares, key=shares.get)
    return f"{place} {shares[place]:.0%} of its weight on average"


def _strongest(head, tokens):
    rows = head[_choosing(head)]
    query, key = (int(i) for i in np.unravel_index(rows.argmax(), rows.shape))
    query += len(head) - len(rows)
    names = f"{visible(tokens[query])} ({query}) to {visible(tokens[key])} ({key})"
    return f"the largest weight, {head[query, key]:.2f}, is from {names}"


def _choosing(head):
    return slice(1 if len(head) > 1 else 0, None)


def attention_key(heads, limit, causal):
    """How to read the colours and the axes of a drawn pattern."""
    text = f"A row is a query (destination), a column a key (source). White is 0, blue {limit:g}"
    if heads.min() < 0:
        text += f", orange {-limit:g}"
    return text + ("; grey lies after the query." if causal else ".")


def coloured(tokens, values):
    """Say what a coloured text reads, and which tokens have the lowest and highest values."""
    high, low = int(values.argmax()), int(values.argmin())
    return (
        f"{len(tokens)} tokens coloured by value: {list_tokens(tokens)}. "
        f"Highest: {visible(tokens[high])} ({high}), {values[high]:.3g}. "
        f"Lowest: {visible(tokens[low])} ({low}), {values[low]:.3g}."
    )


def tokens_key(values, limit):
    """How to read the colours of a coloured text."""
    text = f"White is 0, blue {limit:g}"
    return text + (f", orange {-limit:g}." if values.min() < 0 else ".")
