"""Run folders and the two commands: what a killed run goes on from, what another person opens."""

import json
import os
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from decoder import cli_generate, cli_train, runs
from decoder.curves import curves_svg
from decoder.generate import generate
from decoder.norm import LayerNorm, RMSNorm
from decoder.runs import load_run, load_settings
from decoder.text import CharTokenizer, WordTokenizer

TEXT = "".join(f"{i} times {i + 1} makes {i * (i + 1)}.\n" for i in range(150))
SMALL = "--n-ctx 11 --d-model 6 --n-heads 2 --n-layers 1 --batch-size 5 --threads 1".split()
SHORT = "--steps 9 --evaluate-every 3 --sample-tokens 7".split()
FILES = {
    "config.json", "tokenizer.json", "model.safetensors", "log.jsonl", "curves.svg",
    "samples.txt", "checkpoint.safetensors",
}  # fmt: skip


@pytest.fixture(autouse=True)
def threads():
    """The commands set torch's threads; other tests shall not notice."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "sums.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def finished(corpus):
    """A run from its start to its end."""
    folder = corpus.parent / "finished"
    assert cli_train.main(start(corpus, folder)) == 0
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    """A finished run to be spoilt."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in finished.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def start(corpus, folder, *more):
    return ["--corpus", str(corpus), "--out", str(folder), *SMALL, *SHORT, *more]


def contents(folder):
    return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


# What is in a folder


def test_a_run_folder_can_be_opened(finished):
    assert set(contents(finished)) == FILES
    run = load_run(finished)
    assert run.settings["recipe"]["steps"] == 9
    assert run.settings["corpus"]["characters"] == len(TEXT)
    assert run.tokenizer.token_strings == sorted(set(TEXT))
    assert run.model.config.to_dict() == run.settings["model"]
    assert run.model.config.n_ctx == 11 and run.model.config.d_vocab == run.tokenizer.d_vocab
    stored = load_file(finished / "model.safetensors")
    assert stored.keys() == run.model.state_dict().keys()
    assert all(torch.equal(stored[n], w) for n, w in run.model.state_dict().items())


def test_opening_a_run_draws_nothing(finished):
    before = torch.get_rng_state()
    load_run(finished)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_log_says_what_the_weights_do(finished):
    log = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log] == [3, 6, 9]
    assert [record["tokens"] for record in log] == [3 * 55, 6 * 55, 9 * 55]
    run, cut = load_run(finished), int(0.9 * len(TEXT))
    ids = run.tokenizer.encode(TEXT[cut:])
    n = (len(ids) - 1) // 11 * 11
    with torch.no_grad():
        logits = run.model(ids[:n].view(-1, 11)).flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(logits, ids[1 : n + 1]).item()
    assert log[-1]["whole_validation_loss"] == pytest.approx(loss, rel=1e-5)
    assert log[-1]["validation_loss"] == pytest.approx(loss, rel=1e-5)  # few: all were used
    bits = loss / torch.log(torch.tensor(2.0)).item()  # a token is a character
    assert log[-1]["whole_validation_bits_per_character"] == pytest.approx(bits, rel=1e-5)
    assert log[-1]["train_loss"] < log[0]["train_loss"]


def test_samples_are_what_the_model_wrote(finished):
    samples = (finished / "samples.txt").read_text()
    assert re.findall(r"^--- step (\d+) ---$", samples, re.MULTILINE) == ["3", "6", "9"]
    last = samples.split("--- step 9 ---\n")[1][:-2]
    assert len(last) == 1 + 7 and set(last) <= set(TEXT)


def test_the_seed_is_all_that_differs(corpus, finished, tmp_path):
    again, other = tmp_path / "again", tmp_path / "other"
    assert cli_train.main(start(corpus, again)) == 0
    assert cli_train.main(start(corpus, other, "--seed", "1")) == 0
    assert contents(again) == contents(finished)
    assert contents(other)["model.safetensors"] != contents(again)["model.safetensors"]


def test_words(corpus, tmp_path):
    folder = tmp_path / "words"
    assert cli_train.main(start(corpus, folder, "--tokenizer", "words", "--d-vocab", "300")) == 0
    tokenizer = load_run(folder).tokenizer
    assert isinstance(tokenizer, WordTokenizer) and tokenizer.d_vocab == 300
    # What stands only in the held-out tenth has no say.
    everything = WordTokenizer.from_text(TEXT, d_vocab=9999).token_strings
    assert cli_train.main(start(corpus, tmp_path / "all", "--tokenizer", "words")) == 0
    vocabulary = load_run(tmp_path / "all").tokenizer.token_strings
    assert "149" in everything and "149" not in vocabulary and "17" in vocabulary


CHECKPOINT = "checkpoint.safetensors"
MODERN = ["--architecture", "modern", "--optimizer", "muon", "--d-model", "8"]  # d_head even


def test_the_pieces_of_chapter_16(corpus, tmp_path):
    assert cli_train.main(start(corpus, tmp_path / "run", *MODERN)) == 0
    run = load_run(tmp_path / "run")
    assert isinstance(run.model.norm, RMSNorm) and run.settings["optimizer"] == "muon"
    assert "unembed.W_U" in load_file(tmp_path / "run" / "model.safetensors")
    assert run.model.unembed.W_U.abs().max() > 0  # begins at zero: these were loaded
    assert any(name.endswith("momentum") for name in load_file(tmp_path / "run" / CHECKPOINT))


def test_what_a_run_of_muon_goes_on_from(corpus, tmp_path, monkeypatch):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert cli_train.main(start(corpus, whole, *MODERN)) == 0
    with monkeypatch.context() as patch:
        patch.setattr(cli_train, "_report", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert cli_train.main(start(corpus, killed, *MODERN)) == 130
    assert len((killed / "log.jsonl").read_text().splitlines()) == 1
    assert cli_train.main(["--resume", "--out", str(killed)]) == 0
    assert contents(killed) == contents(whole)


def test_a_run_from_before_there_was_a_choice(copy):
    path = copy / "config.json"
    settings = json.loads(path.read_bytes())
    assert settings.pop("architecture") == "gpt-2" and settings.pop("optimizer") == "adamw"
    path.write_text(json.dumps(settings))
    assert isinstance(load_run(copy).model.norm, LayerNorm)
    assert cli_train.main(["--resume", "--out", str(copy)]) == 0


# Stopping and going on


class Killed(BaseException):
    """Stands for the end of the process: nothing in the code may catch it."""


@pytest.mark.parametrize("writes", range(1, 17))
def test_a_run_that_ends_at_any_write_goes_on_to_the_same_end(
    writes, corpus, finished, tmp_path, monkeypatch
):
    folder, left = tmp_path / "run", [writes]
    real = runs.write_whole

    def dying(path, data):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "write_whole", dying)
        try:
            cli_train.main(start(corpus, folder))
        except Killed:
            pass
    assert (left[0] < 0) is (writes < 16)  # 1 for the settings, 5 for each of three records
    assert cli_train.main(["--resume", "--out", str(folder)]) == 0
    assert contents(folder) == contents(finished)


def test_a_folder_comes_whole_or_not_at_all(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "write_whole", lambda path, data: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        cli_train.main(start(corpus, tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


def test_killed_in_the_middle_it_ends_with_the_same_weights(corpus, finished, tmp_path):
    command = [sys.executable, "-m", "decoder.train", *start(corpus, tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("step 3/9"):
                os.kill(process.pid, signal.SIGKILL)
                break
        process.wait(timeout=60)
    assert process.returncode == -signal.SIGKILL
    log = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert 1 <= len(log) < 3  # it was in the middle
    (tmp_path / "run" / ".log.jsonl.0f0f0f0f.part").write_text("half")  # as a kill may leave it
    resume = [sys.executable, "-m", "decoder.train", "--resume", "--out", str(tmp_path / "run")]
    done = subprocess.run(resume, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == ""
    assert f"going on after step {3 * len(log)} of 9" in done.stdout
    assert contents(tmp_path / "run") == contents(finished)


def test_an_interrupted_run_says_how_to_go_on(corpus, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_train, "save_progress", interrupted)
    assert cli_train.main(start(corpus, tmp_path / "run")) == 130
    assert f"--resume --out {tmp_path / 'run'}" in capsys.readouterr().err


def test_a_finished_run_stays_as_it_is(copy, finished, capsys):
    assert cli_train.main(["--resume", "--out", str(copy)]) == 0
    assert contents(copy) == contents(finished)
    assert "going on after step 9 of 9" in capsys.readouterr().out


def test_a_corpus_that_was_moved_can_be_named_again(copy, corpus, tmp_path, capsys):
    moved, other = tmp_path / "moved.txt", tmp_path / "other.txt"
    moved.write_text(TEXT)
    other.write_text(TEXT + "x")
    assert cli_train.main(["--resume", "--out", str(copy), "--corpus", str(moved)]) == 0
    assert cli_train.main(["--resume", "--out", str(copy), "--corpus", str(other)]) == 2
    assert "expected the corpus that the run was started with (sha256" in capsys.readouterr().err


# Errors


def spoil(name, change):
    def spoiled(folder):
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return spoiled


def edit(**changes):
    return spoil("config.json", lambda b: json.dumps(json.loads(b) | changes).encode())


def swap_tokenizer(folder):
    CharTokenizer.from_text("abc").save(folder / "tokenizer.json")


def drop_a_weight(folder):
    weights = load_file(folder / "model.safetensors")
    weights.pop("norm.b")
    save_file(weights, folder / "model.safetensors")


SIZES = dict(d_vocab=20, n_ctx=11, d_model=8, n_heads=2, n_layers=1)
SPOILT = {
    "no folder": (lambda f: [p.unlink() for p in f.iterdir()] + [f.rmdir()],
                  FileNotFoundError, "expected a run folder.*no such folder"),
    "no config": (lambda f: (f / "config.json").unlink(),
                  FileNotFoundError, "expected a run folder.*it has no config.json"),
    "no JSON": (spoil("config.json", lambda b: b[:40]), ValueError, "config.json: expected JSON"),
    "no object": (spoil("config.json", lambda b: b"[1]"), ValueError, "of format 1, got None"),
    "another format": (edit(format=2), ValueError, "config.json: .* of format 1, got 2"),
    "no sizes": (edit(model={}), ValueError, "config.json: expected a model's sizes"),
    "bad sizes": (edit(model=SIZES | dict(n_ctx=0)), ValueError, "config.json: .*n_ctx .* got 0"),
    "another architecture": (edit(architecture="gpt-9"), ValueError,
                             "config.json: expected architecture gpt-2 or modern, got 'gpt-9'"),
    "other sizes": (edit(model=SIZES), ValueError,
                    "model.safetensors: .* another model: size mismatch for W_E"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), FileNotFoundError, "tokenizer"),
    "another tokenizer": (swap_tokenizer, ValueError,
                          r"d_vocab=20 \(config.json\), got 3 \(tokenizer.json\)"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(),
                   FileNotFoundError, "no model.safetensors: .* --resume --out"),
    "half the weights": (spoil("model.safetensors", lambda b: b[: len(b) // 2]),
                         ValueError, "model.safetensors: expected a whole safetensors file"),
    "a weight is missing": (drop_a_weight, ValueError, "another model: Missing.*norm.b"),
}  # fmt: skip


@pytest.mark.parametrize("case", SPOILT)
def test_a_spoilt_folder_is_refused(case, copy, capsys):
    change, kind, message = SPOILT[case]
    change(copy)
    with pytest.raises(kind, match=message):
        load_run(copy)
    assert cli_generate.main([str(copy), "--prompt", "1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("decoder.generate: error: ") and error.count("\n") == 1


SPOILT_CHECKPOINT = {
    "half": (spoil("checkpoint.safetensors", lambda b: b[: len(b) // 2]), "whole safetensors"),
    "plain weights": (
        lambda f: (f / "checkpoint.safetensors").write_bytes(
            (f / "model.safetensors").read_bytes()
        ),
        "checkpoint.safetensors: expected a checkpoint of format 1, got None",
    ),
    "settings": (spoil("config.json", lambda b: b.replace(b'"seed"', b'"sead"')), "also seed"),
}


@pytest.mark.parametrize("case", SPOILT_CHECKPOINT)
def test_a_spoilt_checkpoint_is_refused(case, copy, capsys):
    change, message = SPOILT_CHECKPOINT[case]
    change(copy)
    before = contents(copy)
    assert cli_train.main(["--resume", "--out", str(copy)]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1
    assert contents(copy) == before


MISTAKES = {
    "there already": ([], "expected a new or empty run folder.*--resume goes on"),
    "no corpus": (["--corpus", "no-such"], "neither a corpus nor a file"),
    "tokenizer": (["--tokenizer", "letters"], "characters or words, got 'letters'"),
    "d-vocab": (["--d-vocab", "300"], "--d-vocab is for --tokenizer words"),
    "few words": (["--tokenizer", "words", "--d-vocab", "10"], "at least 256, got 10"),
    "architecture": (["--architecture", "gpt-9"], "gpt-2 or modern, got 'gpt-9'"),
    "optimizer": (["--optimizer", "sgd"], "adamw or muon, got 'sgd'"),
    "heads": (["--n-heads", "4"], "d_model=6, n_heads=4"),
    "steps": (["--steps", "0"], "steps to be a positive whole number, got 0"),
    "rate": (["--learning-rate", "-1"], "learning_rate above 0, got -1"),
    "batch": (["--batch-size", "100000"], "batch_size from 1 to .* got 100000"),
    "context": (["--n-ctx", "100000"], "at least 100001 tokens"),
    "every": (["--evaluate-every", "0"], "--evaluate-every of at least 1"),
    "threads": (["--threads", "0"], "--threads of at least 1"),
    "sample": (["--sample-tokens", "-1"], "--sample-tokens of 0 or more"),
    "settings of a resumed run": (["--resume"], "keeps its settings, but got --batch-size, --d-mo"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_get_one_line_and_leave_nothing(case, corpus, finished, tmp_path, capsys):
    more, message = MISTAKES[case]
    folder = finished if case == "there already" else tmp_path / "run"
    before = contents(finished)
    assert cli_train.main(start(corpus, folder, *more)) == 2
    out, err = capsys.readouterr()
    assert re.search(message, err) and err.startswith("decoder.train: error: ")
    assert err.count("\n") == 1 and out == ""
    assert list(tmp_path.iterdir()) == [] and contents(finished) == before


def test_a_loss_that_is_no_number_is_a_mistake_too(corpus, tmp_path, capsys):
    rate = ["--learning-rate", "1e30"]
    assert cli_train.main(start(corpus, tmp_path / "run", *rate)) == 2
    assert "try a lower learning rate" in capsys.readouterr().err


def test_no_run_to_go_on_with(tmp_path, capsys):
    assert cli_train.main(["--resume", "--out", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_an_empty_folder_may_be_used_and_no_other(corpus, tmp_path):
    empty, full = tmp_path / "empty", tmp_path / "full"
    empty.mkdir()
    full.mkdir()
    (full / "letter.txt").write_text("mine")
    assert cli_train.main(start(corpus, empty)) == 0
    assert set(contents(empty)) == FILES
    assert cli_train.main(start(corpus, full)) == 2
    assert contents(full) == {"letter.txt": b"mine"}


@pytest.mark.parametrize("module", [cli_train, cli_generate])
def test_help_names_every_option_with_its_default(module, capsys):
    with pytest.raises(SystemExit) as end:
        module.main(["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0 and "examples:" in text
    for action in module._parser()._actions:
        for option in action.option_strings:
            assert option in text
    if module is cli_train:
        assert all(
            f"(default: {d})" in " ".join(text.split()) for d, *_ in cli_train.OPTIONS.values()
        )


# Generating


def test_generate_prints_what_generate_writes(finished, capsys):
    run = load_run(finished)
    how = ["--max-new-tokens", "30", "--seed", "3", "--temperature", "1.3", "--top-k", "9"]
    assert cli_generate.main([str(finished), "--prompt", "7 times", *how, "--top-p", "0.8"]) == 0
    ids = generate(
        run.model,
        run.tokenizer.encode("7 times")[None],
        30,
        temperature=1.3,
        top_k=9,
        top_p=0.8,
        generator=torch.Generator().manual_seed(3),
    )
    assert capsys.readouterr().out == run.tokenizer.decode(ids[0]) + "\n"


def test_greedy_is_temperature_0(finished, capsys):
    for how in (["--greedy"], ["--temperature", "0"], ["--top-k", "1"]):
        assert cli_generate.main([str(finished), "--prompt", "7", *how]) == 0
    run = load_run(finished)
    ids = generate(run.model, run.tokenizer.encode("7")[None], 200, temperature=0)
    assert capsys.readouterr().out == 3 * (run.tokenizer.decode(ids[0]) + "\n")


def test_without_a_seed_each_text_is_another(finished, capsys):
    texts = set()
    for _ in range(2):
        cli_generate.main([str(finished), "--prompt", "7", "--max-new-tokens", "60"])
        texts.add(capsys.readouterr().out)
    assert len(texts) == 2


def test_half_characters_wait_for_the_rest():
    tokenizer = WordTokenizer(["né"])
    ids = [torch.tensor([i]) for i in [*"é".encode(), 256, *"€".encode(), 0xE2, 65, 0xC3]]
    pieces = list(cli_generate._pieces(tokenizer, ids))
    assert [p for p in pieces if p] == ["é", "né", "€", "\ufffdA", "\ufffd"]
    assert list(cli_generate._pieces(tokenizer, [])) == []


def test_a_reader_that_has_seen_enough_is_no_error(finished):
    command = f'"{sys.executable}" -m decoder.generate "{finished}" --prompt 7 | head -c 3'
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout[:1], done.stderr) == (0, "7", "")


WRONG = {
    "empty prompt": (["--prompt", ""], "prompt of at least one character, got an empty one"),
    "unknown character": (["--prompt", "7 €"], "'€' .*at place 2"),
    "long prompt": (["--prompt", "1" * 12], "at most n_ctx=11 tokens, got 12"),
    "temperature": (["--prompt", "7", "--temperature", "-1"], "temperature of 0 or more, got -1"),
    "top-k": (["--prompt", "7", "--top-k", "0"], "top_k .* got 0"),
    "top-p": (["--prompt", "7", "--top-p", "2"], "top_p .* got 2"),
    "length": (["--prompt", "7", "--max-new-tokens", "-1"], "max_new_tokens of 0 or more, got -1"),
    "threads": (["--prompt", "7", "--threads", "0"], "--threads of at least 1, got 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_prompts_get_one_line_and_no_text(case, finished, capsys):
    more, message = WRONG[case]
    assert cli_generate.main([str(finished), *more]) == 2
    out, err = capsys.readouterr()
    assert re.search(message, err) and err.count("\n") == 1 and out == ""


# The curves


def test_curves_are_drawn_where_the_numbers_are(finished):
    log = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    picture = ET.fromstring((finished / "curves.svg").read_text())
    assert curves_svg(log) == (finished / "curves.svg").read_text()
    svg = "{http://www.w3.org/2000/svg}"
    assert f"validation {log[-1]['validation_loss']:.3f}" in picture.find(f"{svg}desc").text
    lines = [
        [tuple(map(float, point.split(","))) for point in line.get("points").split()]
        for line in picture.iter(f"{svg}polyline")
    ]
    curves = [line for line in lines if len(line) == len(log)][-4:]
    losses = [[r["train_loss"] for r in log], [r["validation_loss"] for r in log]]
    curves = [c for c in curves if c[0][0] < c[1][0] and c[0][1] != c[1][1]]
    low, high = min(map(min, losses)), max(map(max, losses))
    for curve, loss in zip(curves, losses, strict=True):
        for (x, y), value, step in zip(curve, loss, (3, 6, 9), strict=True):
            assert x == pytest.approx(60 + 560 * step / 9, abs=0.06)
            assert y == pytest.approx(350 - 310 * (value - low) / (high - low), abs=0.06)


@pytest.mark.parametrize(
    "history", [[], [{"step": 5, "train_loss": 2.0}], [{"step": 1, "validation_loss": 0.0}] * 2]
)
def test_curves_of_little_are_still_a_picture(history):
    assert ET.fromstring(curves_svg(history)).get("role") == "img"


def test_settings_alone_can_be_read(finished):
    assert load_settings(str(finished))["corpus"]["sha256"].isalnum()
