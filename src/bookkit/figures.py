"""Every figure of the book: attention and tokens in CircuitsVis, the others in matplotlib.

Each function returns one object. As the last expression of a cell, or given to `display`, it is
interactive (CircuitsVis) or a picture in the published page and in JupyterLab, and a picture with
its text alternative on GitHub, in print, in an untrusted notebook and without JavaScript.

Tokens are shown as they are; what would be invisible gets a sign: · is a space, ↵ a newline,
⇥ a tab, ⟨U+2028⟩ another invisible character, ∅ an empty token.

    from bookkit.figures import attention_heads, loss_curves, show, subplots
    attention_heads(pattern[0], tokens, title="Layer 0", caption="Head 2 looks one token back.")

    fig, ax = subplots()
    ax.plot(steps, norms)
    show(fig, caption="The norm grows with depth.", alt="A line that rises from 1 to 9.")

`alt` says what the picture shows. Where it is left out, it is computed from the data.
"""

import matplotlib.pyplot as plt
import numpy as np

from bookkit import describe, static, style
from bookkit.charts import loss_curves
from bookkit.check import numbers, strings
from bookkit.circuitsvis import Interactive, bundle, pack
from bookkit.decoder_map import PIECES, decoder_map
from bookkit.grids import token_grid, token_log_probs
from bookkit.lines import token_values, top_contexts
from bookkit.matrices import heatmap
from bookkit.picture import Picture, draw, words

__all__ = [
    "PIECES",
    "attention_heads",
    "attention_pattern",
    "bundle",
    "colored_tokens",
    "decoder_map",
    "heatmap",
    "loss_curves",
    "show",
    "subplots",
    "token_grid",
    "token_log_probs",
    "token_values",
    "top_contexts",
]
style.use()


def attention_heads(
    pattern, tokens, title="Attention heads", *, caption="", alt="", max_value=None
):
    """Show what every head of a layer looks at.

    Args:
        pattern: Weights after softmax, (n_heads, seq_q, seq_k), seq_q = seq_k: a tensor, an array
            or nested lists.
        tokens: The seq_k tokens as strings, at most 128.
        title: A few words before the caption.
        caption: The one message of the figure.
        alt: What the figure shows; computed from the pattern if not given.
        max_value: The weight that has the darkest colour; 1, or a larger weight that there is,
            if not given. A smaller one shows weights that are spread thinly.

    Returns:
        An Interactive: CircuitsVis's AttentionHeads, or its static picture. What lies after the
        query is grey if all of it is exactly zero.

    Raises:
        ValueError: pattern has another shape, is not square, or not finite; tokens are not
            strings or not as many as positions; max_value is not above zero.
    """
    pattern = numbers(pattern, "pattern", "n_heads, seq_q, seq_k")
    return _attention("AttentionHeads", pattern, tokens, title, caption, alt, max_value)


def attention_pattern(
    pattern, tokens, title="Attention pattern", *, caption="", alt="", max_value=None
):
    """Show what one head looks at.

    Args:
        pattern: Weights after softmax, (seq_q, seq_k), seq_q = seq_k; a mask (booleans) does too.
        tokens: The seq_k tokens as strings, at most 128.
        title, caption, alt, max_value: As in attention_heads.

    Returns:
        An Interactive: CircuitsVis's AttentionPattern, or its static picture.

    Raises:
        ValueError: As attention_heads.
    """
    pattern = numbers(pattern, "pattern", "seq_q, seq_k")
    return _attention("AttentionPattern", pattern, tokens, title, caption, alt, max_value)


def _attention(component, pattern, tokens, title, caption, alt, max_value):
    seq_q, seq_k = pattern.shape[-2:]
    if seq_q != seq_k:
        raise ValueError(f"expected seq_q = seq_k, one row a token; got pattern {pattern.shape}")
    tokens = strings(tokens, seq_k)
    limit = static.limit(max_value, max(1.0, abs(pattern).max()))
    heads = pattern.reshape(-1, seq_q, seq_k)
    causal = seq_q > 1 and not np.triu(heads, 1).any()
    kept = heads[:, np.tri(seq_q, dtype=bool)] if causal else heads
    values, digits = pack(kept, max(abs(kept).max(), limit / 1000))
    data = {
        "draw": component,
        "tokens": [static.short(token, 40) for token in tokens],
        "shape": pattern.shape,
        "causal": causal,
        "limit": limit,
        "digits": digits,
        "values": values,
        "key": describe.attention_key(heads, limit, causal),
    }
    return Interactive(
        data,
        image=static.heads_picture(heads, tokens, limit, causal),
        alt=alt or describe.attention(heads, tokens, causal),
        generated=not alt,
        title=title,
        caption=caption,
    )


def colored_tokens(tokens, values, title="Tokens", *, caption="", alt="", max_value=None):
    """Show a text whose tokens are coloured by a value: blue above zero, orange below.

    Args:
        tokens: Strings, at most 1024.
        values: Their values, (seq,).
        title, caption, alt: As in attention_heads.
        max_value: The absolute value that has the full colour; the largest if not given.

    Returns:
        An Interactive: CircuitsVis's ColoredTokens, or its static picture.

    Raises:
        ValueError: values are not finite numbers of shape (seq,), tokens not strings or not as
            many, max_value not above zero.
    """
    values = numbers(values, "values", "seq")
    tokens = strings(tokens, len(values), most=1024)
    limit = static.limit(max_value, abs(values).max() or 1.0)
    packed, digits = pack(values, max(abs(values).max(), limit / 1000))
    data = {
        "draw": "ColoredTokens",
        # The line goes on below a newline's sign.
        "tokens": [static.visible(t) + ("\n" if "\n" in t else "") for t in tokens],
        "shape": values.shape,
        "low": -limit,
        "high": limit,
        "digits": digits,
        "values": packed,
        "key": describe.tokens_key(values, limit),
    }
    return Interactive(
        data,
        image=static.tokens_picture(tokens, values, -limit, limit),
        alt=alt or describe.coloured(tokens, values),
        generated=not alt,
        title=title,
        caption=caption,
    )


def subplots(rows=1, columns=1, *, height=3.3, width=style.WIDTH, **options):
    """Make a matplotlib figure in the house style, wide enough for a page, narrow enough to read
    on a telephone.

    Args:
        rows, columns: Of the grid of axes.
        height, width: Inches.
        options: Passed to matplotlib's subplots.

    Returns:
        The figure and its axes, as matplotlib does.
    """
    options.setdefault("layout", "constrained")
    return plt.subplots(rows, columns, figsize=(width, height), **options)


def show(fig, *, caption, alt, title=""):
    """Turn a matplotlib figure into a picture with a caption and a text alternative.

    Args:
        fig: A matplotlib Figure; closed, so that the notebook does not show it twice.
        caption: The one message of the figure.
        alt: What the picture shows, for those who do not see it.
        title: A few words before the caption.

    Returns:
        A Picture: the last expression of a cell, or an argument of `display`.

    Raises:
        ValueError: caption or alt is empty, or fig is no matplotlib Figure.
    """
    words(caption, "caption"), words(alt, "alt")
    if not hasattr(fig, "savefig"):
        raise ValueError(f"expected a matplotlib Figure, got {type(fig).__name__}")
    image = draw(fig)
    plt.close(fig)
    return Picture(image, alt, caption, title)
