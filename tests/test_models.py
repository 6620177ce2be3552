"""The trained model that chapters open: it is what its run folder says."""

import json

import pytest
import torch

from bookkit.outputs import ROOT
from decoder.runs import load_run
from decoder.train import evaluate, windows

FOLDER = ROOT / "models" / "shakespeare"


def test_the_loss_on_what_it_never_saw_is_the_one_in_its_log():
    run = load_run(FOLDER)
    log = [json.loads(line) for line in (FOLDER / "log.jsonl").read_text().splitlines()]
    held_out = (FOLDER / "held-out.txt").read_bytes().decode()
    corpus = run.settings["corpus"]
    assert len(held_out) == corpus["characters"] - int(0.9 * corpus["characters"])
    ids = run.tokenizer.encode(held_out)
    assert torch.unique(ids).max() < run.tokenizer.d_vocab
    loss = evaluate(run.model, *windows(ids, run.model.config.n_ctx))
    assert loss == pytest.approx(log[-1]["whole_validation_loss"], abs=1e-4)
    assert log[-1]["step"] == run.settings["recipe"]["steps"] and loss < 1.6
