"""What `python -m decoder.train` can be told, and its help."""

import argparse

import torch

DESCRIPTION = """\
Train a decoder on a text and keep all of it in a folder.

The first nine tenths of the text are learnt from, the rest judges. Along the way the folder
gets the weights, a log, the curves as a picture and samples; a run that was stopped, in
whatever way, goes on from its last record with --resume and ends with the same weights."""
EXAMPLES = """\
examples:
  python -m decoder.train --out runs/first
      characters of Python's own help texts: needs no network, takes a minute or two
  python -m decoder.train --corpus tiny-shakespeare --out runs/plays --steps 5000
  python -m decoder.train --corpus tiny-shakespeare --out runs/fast --architecture modern \
      --optimizer muon --learning-rate 0.02 --weight-decay 0 --batch-size 24
  python -m decoder.train --corpus my-novel.txt --tokenizer words --d-vocab 4096 --out runs/novel
  python -m decoder.train --resume --out runs/plays
  python -m decoder.generate runs/plays --prompt "ROMEO:"

The size that counts for time is steps * batch-size * n-ctx * parameters. Losses are in nats
per token; bits per character compare tokenizers."""

OPTIONS = {  # name: default, type, help
    "corpus": ("pydoc", str, "tiny-shakespeare, shakespeare, pydoc, or the path of a UTF-8 file"),
    "tokenizer": ("characters", str, "what a token is: characters or words"),
    "d-vocab": (4096, int, "most tokens that a tokenizer of words may have"),
    "n-ctx": (64, int, "longest sequence that the model sees, in tokens"),
    "d-model": (128, int, "width of the residual stream"),
    "n-heads": (4, int, "attention heads in a block"),
    "n-layers": (4, int, "blocks"),
    "architecture": ("gpt-2", str, "gpt-2, or modern: the pieces of chapter 16"),
    "steps": (2000, int, "batches to learn from"),
    "batch-size": (12, int, "windows of n-ctx tokens in a batch"),
    "optimizer": ("adamw", str, "adamw, or muon: learns faster at --learning-rate 0.02"),
    "learning-rate": (1e-3, float, "the highest; it rises to it at first and falls at the end"),
    "weight-decay": (0.1, float, "pull of matrices towards zero"),
    "seed": (0, int, "fixes first weights, order of the text, samples"),
    "evaluate-every": (200, int, "steps from one record (and checkpoint, and sample) to the next"),
    "sample-tokens": (200, int, "length of a sample; 0 for none"),
    "threads": (torch.get_num_threads(), int, "processor threads; the last digits depend on them"),
}


def parser():
    """The parser of the command line. It leaves out what was not given."""
    made = argparse.ArgumentParser(
        prog="python -m decoder.train",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,  # so that --resume can tell what was given
    )
    made.add_argument("--out", required=True, metavar="RUN", help="the run folder, new or empty")
    made.add_argument(
        "--resume",
        action="store_true",
        default=False,
        help="go on with the run in RUN, with the settings that it was started with",
    )
    for name, (default, kind, text) in OPTIONS.items():
        metavar = {str: "TEXT", int: "N", float: "X"}[kind]
        made.add_argument(
            f"--{name}", type=kind, metavar=metavar, help=f"{text} (default: {default})"
        )
    return made
