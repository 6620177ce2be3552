"""Beam search: look for the likeliest text rather than draw one."""

import math

import torch

from decoder.cache import Context, check_prompt
from decoder.checks import is_number, is_whole

NEVER = -1e9  # below the score of any text; finite, so that what is added to it stays comparable


@torch.no_grad()
def beam_search(
    model,
    tokens,
    max_new_tokens=32,
    n_beams=4,
    length_penalty=1.0,
    stop_token=None,
    use_cache=True,
):
    """Write on with the likeliest text that a narrow search finds.

    At every step each of the n_beams texts is continued in all ways, and the n_beams likeliest
    of these are kept: n_beams=1 is greedy. A text is over at the stop token or after
    max_new_tokens. The score that it is chosen by is its log-probability, of what was written,
    over its length ** length_penalty, the stop token counted.

    Args:
        model: `Decoder`.
        tokens: Prompts of one length, (batch, seq), int64, 1 <= seq <= n_ctx.
        max_new_tokens: Tokens to add, 0 or more.
        n_beams: Texts to keep for each prompt.
        length_penalty: 0 compares texts by their probability, which favours short ones; 1 by
            their mean log-probability per token.
        stop_token: Id after which a text is over.
        use_cache: As for `generate`, and at n_ctx the same happens.

    Returns:
        The best text for each prompt, (batch, seq + new), int64; where one is shorter than
        another it is filled up with the stop token.

    Raises:
        ValueError: an argument is out of its range, tokens do not fit, or the model's logits
            are no numbers.

    A search ends where transformers' ends with early_stopping=False: once n_beams texts are
    over, and the best that is not yet over has a score, at its present length, that is no
    better than the worst of them.

    Source: Graves 2012, section 2 (the search); Wu et al. 2016, eq. 14 (lengths, of which the
    simpler form above is the one in use). Built in chapters/12-generation.
    """
    check_prompt(model, tokens, max_new_tokens, stop_token)
    if not is_whole(n_beams) or n_beams < 1:
        raise ValueError(f"expected n_beams to be a whole number of at least 1, got {n_beams!r}")
    if not is_number(length_penalty) or not math.isfinite(length_penalty):
        raise ValueError(f"expected length_penalty to be a number, got {length_penalty!r}")
    batch, context = len(tokens), Context(model, use_cache)
    finished = [_Finished(n_beams, length_penalty) for _ in range(batch)]
    texts = tokens.repeat_interleave(n_beams, dim=0)  # (batch * n_beams, seq)
    scores = torch.full((batch, n_beams), NEVER, device=tokens.device)
    scores[:, 0] = 0.0  # all beams of a prompt are still the same: only one may be continued
    first_of_row = n_beams * torch.arange(batch, device=tokens.device)[:, None]  # (batch, 1)
    for new in range(1, max_new_tokens + 1):
        log_probs = context.next_logits(texts).log_softmax(dim=-1)
        total, parents, next_tokens = _best(scores, log_probs)  # (batch, 2 * n_beams) each
        parents = parents + first_of_row
        ends = torch.full_like(next_tokens, new == max_new_tokens, dtype=torch.bool)
        if stop_token is not None:
            ends |= next_tokens == stop_token
        for row, rank in ends[:, :n_beams].nonzero().tolist():
            text = torch.cat([texts[parents[row, rank]], next_tokens[row, rank, None]])
            finished[row].add(total[row, rank].item(), new, text)
        scores, kept = (total + NEVER * ends).topk(n_beams)  # (batch, n_beams)
        rows = parents.gather(1, kept).flatten()  # (batch * n_beams,)
        texts = torch.cat([texts[rows], next_tokens.gather(1, kept).view(-1, 1)], dim=1)
        context.reorder(rows)
        for row, best in enumerate(scores[:, 0].tolist()):
            finished[row].close_if_hopeless(best, new)
        if all(row.closed for row in finished):
            break
    best_texts = [row.best() for row in finished] if max_new_tokens else list(tokens)
    # Without a stop token all are of one length, and nothing is filled up.
    return torch.nn.utils.rnn.pad_sequence(best_texts, True, padding_value=stop_token or 0)


def _best(scores, log_probs):
    """The best continuations of each prompt's beams: total score, beam, token.

    Twice as many as beams: if each beam's best is to stop, as many are left that go on.
    """
    (batch, n_beams), d_vocab = scores.shape, log_probs.shape[-1]
    total = (scores[..., None] + log_probs.view(batch, n_beams, d_vocab)).flatten(1)
    best, index = total.topk(min(2 * n_beams, n_beams * d_vocab))
    return best, index // d_vocab, index % d_vocab


class _Finished:
    """The texts of one prompt that are over, best first, at most n_beams of them."""

    def __init__(self, n_beams, length_penalty):
        self.n_beams, self.length_penalty = n_beams, length_penalty
        self.texts = []
        self.closed = False

    def add(self, total, new, text):
        if not self.closed:
            self.texts.append((total / new**self.length_penalty, text))
            self.texts.sort(key=lambda scored: -scored[0])
            del self.texts[self.n_beams :]

    def close_if_hopeless(self, total, new):
        if len(self.texts) == self.n_beams:
            worst = self.texts[-1][0]
            self.closed |= total / new**self.length_penalty <= worst

    def best(self):
        return self.texts[0][1]
