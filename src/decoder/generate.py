"""Generation: write on, one token at a time. `python -m decoder.generate RUN --prompt "..."`"""

import math
import sys

import torch

from decoder.beam import beam_search
from decoder.cache import Context, KeyValueCache, LayerCache, cache_bytes, check_prompt
from decoder.checks import is_number, is_whole

__all__ = ["Context", "KeyValueCache", "LayerCache", "apply_temperature", "beam_search"]
__all__ += ["cache_bytes", "generate", "keep_top_k", "keep_top_p", "pick", "stream"]


def generate(model, tokens, max_new_tokens=32, **how):
    """Write on from a prompt.

    Args:
        model: `Decoder`. Its mode (training or not) stays as it is.
        tokens: Prompts of one length, (batch, seq), int64, 1 <= seq <= n_ctx.
        max_new_tokens: Tokens to add, 0 or more.
        temperature: 0 for the likeliest token every time (greedy), 1 for the model's own
            distribution, above 1 for a flatter one.
        top_k: Draw from the k likeliest tokens only; from all if None.
        top_p: Of those, draw from the fewest that hold this share of the probability.
        generator: `torch.Generator`, which makes the draw repeatable; torch's global one if None.
        use_cache: Keep keys and values, or compute them again for each token. Same tokens.
        stop_token: Id after which a row is over; it goes on with nothing but that id.

    Returns:
        The prompts with what was written, (batch, seq + new), int64. new is max_new_tokens, or
        fewer once every row has stopped.

    What happens at n_ctx: a longer prompt is refused. A sequence that outgrows n_ctx while it is
    written goes on from its last n_ctx // 2 tokens, each time it is full; see `Context`.

    Raises:
        ValueError: an argument is out of its range, tokens do not fit, or the model's logits
            are no numbers.

    Built in chapters/12-generation.
    """
    written = [next_tokens[:, None] for next_tokens in stream(model, tokens, max_new_tokens, **how)]
    return torch.cat([tokens, *written], dim=1)


def stream(
    model,
    tokens,
    max_new_tokens=32,
    temperature=1.0,
    top_k=None,
    top_p=None,
    generator=None,
    use_cache=True,
    stop_token=None,
):
    """`generate`, one token at a time: an iterator over the next id of each row, (batch,)."""
    check_prompt(model, tokens, max_new_tokens, stop_token)
    _check_cuts(temperature, top_k, top_p)
    how = (temperature, top_k, top_p, generator)
    return _stream(Context(model, use_cache), tokens, max_new_tokens, how, stop_token)


@torch.no_grad()
def _stream(context, tokens, max_new_tokens, how, stop_token):
    stopped = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    for _ in range(max_new_tokens):
        next_tokens = pick(context.next_logits(tokens), *how)  # (batch,)
        if stop_token is not None:
            next_tokens = next_tokens.masked_fill(stopped, stop_token)
            stopped |= next_tokens == stop_token
        yield next_tokens
        if stop_token is not None and stopped.all():
            return
        tokens = torch.cat([tokens, next_tokens[:, None]], dim=1)


def pick(logits, temperature=1.0, top_k=None, top_p=None, generator=None):
    """Choose a token from what a model expects next: temperature first, then top-k, then top-p.

    Args:
        logits: (batch, d_vocab).
        temperature, top_k, top_p, generator: As for `generate`.

    Returns:
        Ids, (batch,), int64.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = apply_temperature(logits, temperature)
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if top_p is not None:
        logits = keep_top_p(logits, top_p)
    return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)[:, 0]


def apply_temperature(logits, temperature):
    """Sharpen (below 1) or flatten (above 1) a distribution.

    Args:
        logits: (..., d_vocab).
        temperature: Above 0.

    Returns:
        (logits - the largest) / temperature. The difference changes no probability, and a
        temperature close to 0 does not overflow.

    Source: Ackley et al. 1985, eq. 5.
    """
    _check_cuts(temperature=temperature)
    if temperature == 0:
        raise ValueError("expected a temperature above 0 to divide by, got 0")
    return (logits - logits.amax(dim=-1, keepdim=True)) / temperature


def keep_top_k(logits, k):
    """Keep the k likeliest tokens, and those that tie with the last of them; -inf for the rest.

    Args:
        logits: (..., d_vocab).
        k: 1 or more; from d_vocab on, all are kept.

    Returns:
        (..., d_vocab).

    Source: Fan et al. 2018, section 5.3.
    """
    _check_cuts(top_k=k)
    smallest = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]  # (..., 1)
    return logits.masked_fill(logits < smallest, -math.inf)


def keep_top_p(logits, p):
    """Keep the fewest tokens, likeliest first, whose probabilities reach p; -inf for the rest.

    A token goes when all that are less likely hold, together with it, at most 1 - p. The
    likeliest one always stays. Of tokens with equal logits some may stay and some go.

    Args:
        logits: (..., d_vocab).
        p: Above 0, at most 1.

    Returns:
        (..., d_vocab).

    Source: Holtzman et al. 2020, eq. 2.
    """
    _check_cuts(top_p=p)
    ascending, order = logits.sort(dim=-1)
    goes = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - p  # (..., d_vocab)
    goes[..., -1] = False
    return logits.masked_fill(goes.scatter(-1, order, goes), -math.inf)


def _check_cuts(temperature=1.0, top_k=None, top_p=None):
    if not is_number(temperature) or not 0 <= temperature < math.inf:
        raise ValueError(f"expected a temperature of 0 or more, got {temperature!r}")
    if top_k is not None and not (is_whole(top_k) and top_k >= 1):
        raise ValueError(f"expected top_k to be a whole number of at least 1, got {top_k!r}")
    if top_p is not None and not (is_number(top_p) and 0 < top_p <= 1):
        raise ValueError(f"expected top_p above 0 and at most 1, got {top_p!r}")


if __name__ == "__main__":
    from decoder.cli_generate import main

    sys.exit(main())
