"""`python -m decoder.train`: train a decoder on a text, from a shell."""

import hashlib
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm.auto import tqdm

from decoder.batches import numbered_generator, shuffled, split, windows
from decoder.cli_options import OPTIONS
from decoder.cli_options import parser as _parser
from decoder.config import Config
from decoder.generate import generate
from decoder.loss import bits_per_character, evaluate
from decoder.optim import muon
from decoder.runs import create_run, load_progress, load_settings, new_model, save_progress
from decoder.text import CharTokenizer, WordTokenizer, load_corpus, load_tokenizer
from decoder.train import Recipe, Training, adamw, watch

VALIDATION_WINDOWS = 256  # judged by along the way, spread evenly; at the end by all
FRACTION = 0.9
ALONG = ("batch_size", "seed", "evaluate_every", "sample_tokens", "threads")
OPTIMIZERS = {"adamw": adamw, "muon": muon}
NEEDED = {"model", "recipe", "corpus", "fraction", *ALONG}


def main(argv=None):
    """Returns the exit status: 0, or 2 after one line on stderr, or 130 when interrupted."""
    given = vars(_parser().parse_args(argv))
    folder, resumed = Path(given.pop("out")), given.pop("resume")
    try:
        settings, text = (_resumed if resumed else _started)(folder, given)
        _run(folder, settings, text)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"decoder.train: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nstopped; --resume --out {folder} goes on", file=sys.stderr)
        return 130
    return 0


def _started(folder, given):
    """Settings and text of a new run, and its folder made."""
    chosen = {name.replace("-", "_"): default for name, (default, *_) in OPTIONS.items()} | given
    for name in ("evaluate_every", "threads"):
        if chosen[name] < 1:
            raise ValueError(f"expected --{name.replace('_', '-')} of at least 1")
    if chosen["sample_tokens"] < 0:
        raise ValueError("expected --sample-tokens of 0 or more")
    text = load_corpus(chosen["corpus"])
    tokenizer = _make_tokenizer(chosen["tokenizer"], text, chosen["d_vocab"], "d_vocab" in given)
    sizes = {name: chosen[name] for name in ("n_ctx", "d_model", "n_heads", "n_layers")}
    recipe = {name: chosen[name] for name in ("steps", "learning_rate", "weight_decay")}
    settings = {
        "model": Config(d_vocab=tokenizer.d_vocab, **sizes).to_dict(),
        "architecture": chosen["architecture"],
        "recipe": asdict(Recipe(**recipe)),
        "optimizer": chosen["optimizer"],
        **{name: chosen[name] for name in ALONG},
        "corpus": {"name": chosen["corpus"], "sha256": _sha256(text), "characters": len(text)},
        "fraction": FRACTION,
        "torch": torch.__version__,
    }
    _prepare(settings, text, tokenizer)  # whatever does not fit is found before a folder is made
    create_run(folder, settings, tokenizer)
    return settings, text


def _resumed(folder, given):
    """Settings and text of a run that is there already."""
    fixed = sorted(f"--{name.replace('_', '-')}" for name in given.keys() - {"corpus", "threads"})
    if fixed:
        raise ValueError(f"a resumed run keeps its settings, but got {', '.join(fixed)}")
    settings = load_settings(folder)
    if missing := sorted(NEEDED - settings.keys()):
        raise ValueError(f"{folder / 'config.json'}: expected also {', '.join(missing)}")
    settings["threads"] = given.get("threads", settings["threads"])
    corpus = settings["corpus"]
    text = load_corpus(given.get("corpus", corpus["name"]))
    if _sha256(text) != corpus["sha256"]:
        raise ValueError(
            f"expected the corpus that the run was started with (sha256 {corpus['sha256']}), "
            f"got another text (sha256 {_sha256(text)})"
        )
    return settings, text


def _make_tokenizer(kind, text, d_vocab, d_vocab_given):
    if kind == "characters":
        if d_vocab_given:
            raise ValueError("--d-vocab is for --tokenizer words: a text has the characters it has")
        return CharTokenizer.from_text(text)
    if kind == "words":
        # Words to be judged by have no say in the vocabulary: new ones are spelled in bytes.
        return WordTokenizer.from_text(split(text, FRACTION)[0], d_vocab=d_vocab)
    raise ValueError(f"expected --tokenizer characters or words, got {kind!r}")


def _prepare(settings, text, tokenizer):
    """The `Training`, the validation windows, and what turns their loss into bits."""
    n_ctx, seed = settings["model"]["n_ctx"], settings["seed"]
    learnt, held_out = split(text, settings["fraction"])
    inputs, targets = windows(tokenizer.encode(learnt), n_ctx)
    ids = tokenizer.encode(held_out)
    batches = shuffled(inputs, targets, settings["batch_size"], seed)
    optimizer = settings.get("optimizer", "adamw")
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"expected optimizer {' or '.join(OPTIMIZERS)}, got {optimizer!r}")
    torch.manual_seed(seed)
    model, recipe = new_model(settings), Recipe(**settings["recipe"])
    training = Training(model, batches, recipe, optimizer=OPTIMIZERS[optimizer])
    return (
        training,
        windows(ids, n_ctx),
        lambda nats: bits_per_character(nats, len(ids), len(held_out)),
    )


def _run(folder, settings, text):
    torch.set_num_threads(settings["threads"])
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    training, whole, to_bits = _prepare(settings, text, tokenizer)
    spread = torch.linspace(0, len(whole[0]) - 1, min(VALIDATION_WINDOWS, len(whole[0]))).long()
    history = load_progress(folder, training)
    steps = training.recipe.steps
    print(f"{folder}: {tokenizer}, {_size(training.model):,} parameters, {len(text):,} characters")
    if training.step:
        print(f"going on after step {training.step} of {steps}")
    validation = tuple(part[spread] for part in whole)
    for record in watch(training, validation, settings["evaluate_every"]):
        record["validation_bits_per_character"] = to_bits(record["validation_loss"])
        if record["step"] == steps:
            record["whole_validation_loss"] = evaluate(training.model, *whole)
            record["whole_validation_bits_per_character"] = to_bits(record["whole_validation_loss"])
        if settings["sample_tokens"]:
            record["sample"] = _sample(training.model, tokenizer, whole[0], settings, record)
        history.append(record)
        save_progress(folder, training, history)
        tqdm.write(_report(record, steps))  # above the bar, where there is one
        sys.stdout.flush()
    last = history[-1]
    print(
        f"done: {last['whole_validation_loss']:.4f} nats per token, "
        f"{last['whole_validation_bits_per_character']:.4f} bits per character on all that was "
        f'held out. Try: python -m decoder.generate {folder} --prompt "..."'
    )


def _report(record, steps):
    line = (
        f"step {record['step']:>{len(str(steps))}}/{steps}  train {record['train_loss']:.4f}  "
        f"validation {record['validation_loss']:.4f} nats per token  "
        f"{record['validation_bits_per_character']:.4f} bits per character"
    )
    sample = record.get("sample", "").strip()
    return line + "".join(f"\n    {row}" for row in sample.splitlines()[:5])


def _sample(model, tokenizer, inputs, settings, record):
    # From a held-out token, with a generator of its own: training must not depend on it.
    generator = numbered_generator(settings["seed"], record["step"])
    ids = generate(
        model, inputs[:1, :1], settings["sample_tokens"], temperature=0.8, generator=generator
    )
    return tokenizer.decode(ids[0])


def _size(model):
    return sum(p.numel() for p in model.parameters())


def _sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()
