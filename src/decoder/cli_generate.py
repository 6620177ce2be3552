"""`python -m decoder.generate`: let a trained decoder write, from a shell."""

import argparse
import os
import sys

import torch

from decoder.generate import stream
from decoder.runs import load_run

DESCRIPTION = """\
Write on from a prompt, with a model that `python -m decoder.train` made.

The prompt may have at most n_ctx tokens. A text that outgrows n_ctx goes on from its last
n_ctx // 2 tokens, each time it is full."""
EXAMPLES = """\
examples:
  python -m decoder.generate runs/plays --prompt "ROMEO:"
  python -m decoder.generate runs/plays --prompt "ROMEO:" --temperature 0.8 --top-k 20 --seed 1
  python -m decoder.generate runs/plays --prompt "ROMEO:" --greedy"""
NOT_YET = "\ufffd"  # what the first bytes of a character decode to


def main(argv=None):
    """Returns the exit status: 0, or 2 after one line on stderr, or 130 when interrupted."""
    args = _parser().parse_args(argv)
    try:
        _write(args)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        print(f"decoder.generate: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print()
        return 130
    return 0


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m decoder.generate",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", metavar="RUN", help="a run folder")
    add("--prompt", required=True, metavar="TEXT", help="what to write on from")
    add("--max-new-tokens", type=int, default=200, metavar="N", help="(default: %(default)s)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="X",
        help="below 1 plainer, above 1 wilder, 0 is --greedy (default: %(default)s)",
    )
    how.add_argument(
        "--greedy", action="store_true", help="the likeliest token every time; draws nothing"
    )
    add("--top-k", type=int, metavar="N", help="draw from the N likeliest tokens (default: all)")
    add(
        "--top-p",
        type=float,
        metavar="X",
        help="draw from the fewest tokens that hold this share of the probability (default: all)",
    )
    add(
        "--seed", type=int, metavar="N", help="for the same text again (default: another each time)"
    )
    add("--threads", type=int, metavar="N", help="processor threads (default: torch's choice)")
    return parser


def _write(args):
    run = load_run(args.run)
    if not args.prompt:
        raise ValueError("expected a prompt of at least one character, got an empty one")
    if args.threads is not None:
        if args.threads < 1:
            raise ValueError(f"expected --threads of at least 1, got {args.threads}")
        torch.set_num_threads(args.threads)
    generator = torch.Generator()
    generator.seed() if args.seed is None else generator.manual_seed(args.seed)
    prompt = run.tokenizer.encode(args.prompt)[None]  # (1, seq)
    ids = stream(
        run.model,
        prompt,
        args.max_new_tokens,
        temperature=0 if args.greedy else args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        generator=generator,
    )
    _show(args.prompt)
    for piece in _pieces(run.tokenizer, ids):
        _show(piece)
    _show("\n")


def _pieces(tokenizer, ids):
    """The text of ids as it comes, but no half character: a word's bytes may come one by one."""
    written, shown = [], 0
    for (new,) in ids:
        written.append(new.item())
        text = tokenizer.decode(written)
        if not text.endswith(NOT_YET):
            yield text[shown:]
            shown = len(text)
    if written:
        yield tokenizer.decode(written)[shown:]


def _show(text):
    print(text, end="", flush=True)
