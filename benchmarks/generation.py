"""Writing 512 tokens with a cache, and what a token costs late in a text."""

import statistics
import time
from copy import deepcopy

import torch

from benchmarks.measure import alternate, ratios, row
from benchmarks.peers import Incomparable, transformers_gpt2
from decoder import Config, Decoder
from decoder.efficient import fuse
from decoder.generate import generate, stream

D_VOCAB, PROMPT = 65, 32
# layers, width, heads, what is asked
SIZES = [(4, 128, 4, 3.0), (6, 384, 6, 1.5)]
EARLY, LATE, AROUND = 100, 900, 50  # positions, and how many tokens on each side are timed
TIE = 1e-3


def run(rounds=5, quick=False):
    """Returns the rows and no details."""
    rows = []
    for n_layers, d_model, n_heads, asked in [(2, 32, 2, 3.0)] if quick else SIZES:
        model = sharp(Config(D_VOCAB, PROMPT + (16 if quick else 512), d_model, n_heads, n_layers))
        for batch in (1, 16):
            rows += _one(model, batch, rounds, asked)
    return rows + [late_over_early(rounds, quick)], {}


def sharp(config):
    """A fresh decoder with weights large enough that its text varies and seldom hangs on a tie."""
    torch.manual_seed(0)
    model = Decoder(config).eval()
    with torch.no_grad():
        model.W_E *= 10
        model.positions.W_pos *= 30
        for weight in model.blocks.parameters():
            if weight.ndim == 2:
                weight *= 10
    return model


def _one(model, batch, rounds, asked):
    new = model.config.n_ctx - PROMPT
    tokens = torch.randint(D_VOCAB, (batch, PROMPT), generator=torch.Generator().manual_seed(0))
    writers = {
        "this project, fused kernels": ours(fuse(deepcopy(model)), tokens, new),
        "this project, plain pieces": ours(model, tokens, new),
        "transformers, sdpa": theirs(model, "sdpa", tokens, new),
        "transformers, eager": theirs(model, "eager", tokens, new),
    }
    written = {name: writer() for name, writer in writers.items()}
    for name, ids in written.items():
        check_same(model, ids, written["this project, plain pieces"], name)
    seconds = alternate(writers, rounds)
    fastest = seconds.pop("this project, fused kernels")
    plain = seconds.pop("this project, plain pieces")
    work = f"{model.config.n_layers} × {model.config.d_model}, {_sequences(batch)}, {new} tokens"
    return [
        row(work, "this project, plain pieces ÷ fused", ratios(plain, fastest)),
        *(
            row(work, f"{name} ÷ this", ratios(each, fastest), asked)
            for name, each in seconds.items()
        ),
    ]


def ours(model, tokens, new):
    """A function that writes `new` tokens, the likeliest each time."""
    return lambda: generate(model, tokens, new, temperature=0)


def theirs(model, attention, tokens, new):
    """The same by transformers, with the same weights."""
    gpt2 = transformers_gpt2(model, attention).eval()
    how = dict(do_sample=False, max_new_tokens=new, use_cache=True, eos_token_id=None)
    seen = torch.ones_like(tokens)
    return lambda: gpt2.generate(tokens, attention_mask=seen, pad_token_id=0, **how)


def check_same(model, ids, expected, name):
    """Raises Incomparable: tokens differ, and not because two were equally likely."""
    if ids.shape != expected.shape:
        raise Incomparable(f"{name}: expected {tuple(expected.shape)}, got {tuple(ids.shape)}")
    for one, other in zip(ids, expected, strict=True):
        different = (one != other).nonzero()
        if len(different) == 0:
            continue
        first = int(different[0])
        with torch.no_grad():
            logits = model(other[None, :first])[0, -1]
        if abs(logits[one[first]] - logits[other[first]]) > TIE:
            raise Incomparable(
                f"{name}: expected token {other[first]} at position {first}, got {one[first]}"
            )


def late_over_early(rounds, quick):
    """Seconds for a token around position 900 over those around position 100."""
    early, late, around = (10, 90, 5) if quick else (EARLY, LATE, AROUND)
    torch.manual_seed(0)
    model = fuse(Decoder(Config(D_VOCAB, 128 if quick else 1024, 128, 4, 4)).eval())
    values = []
    for _ in range(rounds):
        seconds = _each_token(model, late + around)
        early_late = [statistics.median(seconds[at - around : at + around]) for at in (early, late)]
        values.append(early_late[1] / early_late[0])
    work = f"4 × 128, 1 sequence, position {late} over {early}"
    return row(work, "this project, seconds per token", values, 1.5, better="lower")


def _each_token(model, new):
    """Seconds for each position from 1 on."""
    writer = stream(model, torch.zeros(1, 1, dtype=torch.int64), new, temperature=0)
    ticks = [time.perf_counter()]
    for _ in writer:
        ticks.append(time.perf_counter())
    return [after - before for before, after in zip(ticks, ticks[1:], strict=False)]


def _sequences(batch):
    return "1 sequence" if batch == 1 else f"{batch} sequences"
