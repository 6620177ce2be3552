"""A run folder: all of a training run, for going on with it and for other people to open.

| file | holds |
|---|---|
| `config.json` | sizes, recipe, corpus with its checksum: what the run was started with |
| `tokenizer.json` | the vocabulary |
| `model.safetensors` | the weights, by the names that they have in `Decoder` |
| `log.jsonl` | a record per line, as `train` gives them |
| `curves.svg` | the losses, drawn |
| `samples.txt` | what the model wrote at each record |
| `checkpoint.safetensors` | weights, optimizer and records in one: what a killed run goes on from |

Each file is replaced whole or not at all. The checkpoint is the truth; log, curves, samples and
weights are written from it, so that they agree again once a killed run goes on.
"""

import json
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from decoder.config import Config
from decoder.curves import curves_svg
from decoder.files import write_whole
from decoder.model import Decoder
from decoder.modern import modernise
from decoder.text import load_tokenizer
from decoder.train import load_weights

FORMAT = 1
ARCHITECTURES = {"gpt-2": lambda model: model, "modern": modernise}


@dataclass(frozen=True)
class Run:
    """A run, opened: its model, its tokenizer, and the settings in its `config.json`."""

    model: Decoder
    tokenizer: object
    settings: dict


def new_model(settings):
    """A fresh decoder, from `config.json`'s `model` (sizes) and `architecture`, or ValueError."""
    try:
        config = Config(**settings["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"expected a model's sizes: {error}") from error
    name = settings.get("architecture", "gpt-2")
    if name not in ARCHITECTURES:
        raise ValueError(f"expected architecture {' or '.join(ARCHITECTURES)}, got {name!r}")
    return ARCHITECTURES[name](Decoder(config))


def create_run(folder, settings, tokenizer):
    """Make a run folder, with its settings and tokenizer, or nothing at all.

    Args:
        folder: Where; must not exist, or be empty.
        settings: What goes into `config.json`; `settings["model"]` are the sizes.
        tokenizer: What has a `save(path)`.

    Raises:
        FileExistsError: there is something already.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(
            f"expected a new or empty run folder, but {folder} is there already; "
            "--resume goes on with it"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    being_made = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    being_made.mkdir()
    try:
        tokenizer.save(being_made / "tokenizer.json")
        write_whole(being_made / "config.json", _json({"format": FORMAT, **settings}))
        os.replace(being_made, folder)  # fails where somebody else was quicker
    finally:
        shutil.rmtree(being_made, ignore_errors=True)


def save_progress(folder, training, history):
    """Write where a run stands: the checkpoint first, then what is made from it.

    Args:
        folder: A run folder.
        training: `Training`.
        history: Its records; `sample`, where a record has one, is text for `samples.txt`.
    """
    folder = Path(folder)
    tensors = {name: t.detach().contiguous() for name, t in training.tensors().items()}
    progress = {"step": training.step, "tokens": training.tokens, "history": history}
    # One key only: safetensors writes several in an order of chance, and the same run should
    # make the same files.
    data = save(tensors, {"progress": json.dumps({"format": FORMAT, **progress})})
    write_whole(folder / "checkpoint.safetensors", data)
    _write_readable(folder, tensors, history)


def _write_readable(folder, tensors, history):
    """Everything that is made from a checkpoint, for people and other programs."""
    weights = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
    write_whole(folder / "model.safetensors", save(weights))
    numbers = [{k: v for k, v in record.items() if k != "sample"} for record in history]
    write_whole(folder / "log.jsonl", "".join(json.dumps(n) + "\n" for n in numbers).encode())
    write_whole(folder / "curves.svg", curves_svg(numbers).encode())
    samples = [f"--- step {r['step']} ---\n{r['sample']}\n\n" for r in history if "sample" in r]
    write_whole(folder / "samples.txt", "".join(samples).encode())


def load_progress(folder, training):
    """Bring a `Training` to where its run folder stands, and the folder's files to agree.

    Returns:
        The history so far; empty, and the training untouched, without a checkpoint.

    Raises:
        ValueError: the checkpoint is damaged, or of another model.
    """
    path = Path(folder) / "checkpoint.safetensors"
    for unfinished in Path(folder).glob(".*.part"):  # what was being written when it was killed
        unfinished.unlink()
    if not path.exists():
        return []
    try:
        tensors = _tensors(path)
        with safe_open(path, "pt") as file:
            progress = json.loads((file.metadata() or {}).get("progress", "{}"))
        if progress.get("format") != FORMAT:
            raise ValueError(
                f"expected a checkpoint of format {FORMAT}, got {progress.get('format')}"
            )
        training.restore(tensors, progress["step"], progress["tokens"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    _write_readable(path.parent, tensors, progress["history"])
    return progress["history"]


def load_settings(folder):
    """What is in a run folder's `config.json`.

    Raises:
        FileNotFoundError: there is no such folder, or it is not a run's.
        ValueError: the file is damaged, or of another format.
    """
    path = Path(folder) / "config.json"
    if not path.exists():
        what = "it has no config.json" if Path(folder).is_dir() else "there is no such folder"
        raise FileNotFoundError(
            f"expected a run folder, as `python -m decoder.train --out` makes one, "
            f"got {folder}: {what}"
        )
    try:
        settings = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON: {error}") from error
    found = settings.get("format") if isinstance(settings, dict) else None
    if found != FORMAT:
        raise ValueError(f"{path}: expected settings of format {FORMAT}, got {found!r}")
    return settings


def load_run(folder):
    """Open a run folder.

    Args:
        folder: str or os.PathLike.

    Returns:
        `Run`: model, tokenizer, settings. The model is on the CPU.

    Raises:
        FileNotFoundError: there is no such folder, or a file in it is missing; says which.
        ValueError: a file is damaged or does not fit the others; says which.
    """
    folder, settings = Path(folder), load_settings(folder)
    with torch.random.fork_rng(devices=[]):  # new weights are drawn; nobody asked for that
        try:
            model = new_model(settings)
        except ValueError as error:
            raise ValueError(f"{folder / 'config.json'}: {error}") from error
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    if tokenizer.d_vocab != model.config.d_vocab:
        raise ValueError(
            f"{folder}: expected a tokenizer of d_vocab={model.config.d_vocab} (config.json), "
            f"got {tokenizer.d_vocab} (tokenizer.json)"
        )
    path = folder / "model.safetensors"
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} has no model.safetensors: its training was stopped before the first "
            f"record. Go on with it: python -m decoder.train --resume --out {folder}"
        )
    try:
        load_weights(model, _tensors(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return Run(model, tokenizer, settings)


def _tensors(path):
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"expected a whole safetensors file: {error}") from error


def _json(data):
    return (json.dumps(data, indent=2) + "\n").encode()
