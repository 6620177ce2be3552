"""The benchmark: its arithmetic, its record, and that all contestants are the same model."""

import json
import sys
from functools import partial

import pytest
import torch
from pieces import randomise

from bookkit.outputs import ROOT

sys.path.insert(0, str(ROOT))  # `benchmarks` is no package of src

from benchmarks import __main__ as command  # noqa: E402
from benchmarks import generation, measure, memory, peers, race, results, training  # noqa: E402

from decoder import Config, Decoder  # noqa: E402
from decoder.loss import cross_entropy  # noqa: E402
from decoder.text import CorpusNotFound  # noqa: E402

CONFIG = Config(d_vocab=29, n_ctx=13, d_model=12, n_heads=3, n_layers=2)
PINNED = [
    partial(peers.transformers_gpt2, attention="eager"),
    partial(peers.transformers_gpt2, attention="sdpa"),
    peers.TorchEncoder,
]
HERE = dict(processor="one", threads=2, torch="2", python="3")


def part(median=2.0, better="higher", machine=HERE, asked=None, details=None):
    values = [median * 0.9, median, median * 1.2]
    line = measure.row("work", "theirs ÷ ours", values, asked, better)
    return dict(rows=[line], details=details or {}, machine=machine, date="2026-01-01")


def ratios_only(**parts):
    """A record of the two parts whose pictures need no details."""
    return {name: part(median) for name, median in parts.items()}


# Arithmetic


def test_a_row_holds_the_median_and_both_ends():
    row = measure.row("work", "name", [3.0, 1.0, 2.5, 9.0], 2.0)
    assert (row["median"], row["low"], row["high"], row["rounds"]) == (2.75, 1.0, 9.0, 4)
    assert (row["asked"], row["better"]) == (2.0, "higher")
    with pytest.raises(ValueError, match="expected values and higher or lower, got"):
        measure.row("work", "name", [])
    with pytest.raises(ValueError, match="got .* and 'up'"):
        measure.row("work", "name", [1.0], better="up")


def test_ratios_compare_within_a_round():
    assert measure.ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
    with pytest.raises(ValueError):
        measure.ratios([2.0], [1.0, 3.0])


def test_contestants_take_turns_and_each_begins_once(monkeypatch):
    ticks = iter(range(1000))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: float(next(ticks)))
    order = []
    work = {name: partial(order.append, name) for name in "abc"}
    seconds = measure.alternate(work, rounds=3, turns=2)
    assert "".join(order) == "abc" + "aabbcc" + "bbccaa" + "ccaabb"  # the first is to warm up
    assert seconds == {name: [0.5] * 3 for name in "abc"}


def test_what_is_asked_is_reached_from_the_right_side():
    assert results.reached(part(2.0, asked=2.0)["rows"][0])
    assert not results.reached(part(1.99, asked=2.0)["rows"][0])
    assert results.reached(part(1.5, "lower", asked=1.5)["rows"][0])
    assert not results.reached(part(1.51, "lower", asked=1.5)["rows"][0])
    (line,) = results.missed({"training": part(1.5, asked=2.0), "memory": part(1.5)})
    assert line == "training: work, theirs ÷ ours: 1.5, asked ≥ 2"


# The record


@pytest.mark.parametrize(
    "now, better, worse",
    [(1.81, "higher", 0), (1.79, "higher", 1), (9.0, "higher", 0)]
    + [(2.19, "lower", 0), (2.21, "lower", 1), (0.1, "lower", 0)],
)
def test_more_than_a_tenth_worse_is_a_regression(now, better, worse):
    lines = results.regressions({"training": part(2.0, better)}, {"training": part(now, better)})
    assert len(lines) == worse
    if worse:
        assert lines == [f"training: work, theirs ÷ ours: {now}, recorded 2"]


@pytest.mark.parametrize("key, other", [("processor", "two"), ("threads", 1)])
def test_another_machine_is_not_compared(key, other):
    before = {"training": part(2.0, machine=HERE | {key: other})}
    assert results.regressions(before, {"training": part(0.1)}) == []
    assert results.regressions({}, {"training": part(0.1)}) == []
    newer = {"training": part(2.0, machine=HERE | {"torch": "3"})}
    assert len(results.regressions(newer, {"training": part(0.1)})) == 1


def test_parts_are_merged_into_the_record(tmp_path):
    assert command.record({}, ratios_only(training=2.0), tmp_path, None) == 0
    assert command.record(results.load(tmp_path), ratios_only(generation=3.0), tmp_path, None) == 0
    recorded = results.load(tmp_path)
    medians = {name: recorded[name]["rows"][0]["median"] for name in recorded}
    assert medians == {"training": 2.0, "generation": 3.0}
    names = {"results.json", "results.md", "training.svg", "generation.svg"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert "| work | theirs ÷ ours | 3 | 2.7 to 3.6 |  |" in (tmp_path / "results.md").read_text()


def test_a_regression_is_said_and_leaves_the_record_alone_until_it_is_accepted(tmp_path, capsys):
    command.record({}, ratios_only(training=2.0), tmp_path, None)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    worse = ratios_only(training=1.0)
    assert command.record(results.load(tmp_path), worse, tmp_path, None) == command.REGRESSED
    said = capsys.readouterr().err
    assert "regression: training: work, theirs ÷ ours: 1, recorded 2" in said
    assert "--accept" in said
    assert {path: path.read_bytes() for path in before} == before
    assert command.main(["--accept", "--out", str(tmp_path)]) == 0
    assert results.load(tmp_path) == worse
    assert not (tmp_path / results.REFUSED).exists()
    assert command.main(["--accept", "--out", str(tmp_path)]) == command.UNABLE


def test_nothing_is_written_where_a_picture_cannot_be_drawn(tmp_path):
    broken = {"race": part(details={})} | ratios_only(training=2.0)
    with pytest.raises(KeyError):
        results.write(broken, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_record_as_it_was(tmp_path, monkeypatch):
    results.write(ratios_only(training=2.0), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("decoder.files.os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        results.write(ratios_only(training=3.0), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_is_not_there_is_said_before_anything_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(race, "run", None)
    assert command.main(["--only", "race", "--out", str(tmp_path / "no")]) == command.UNABLE
    assert capsys.readouterr().err == f"benchmarks: there is no folder {tmp_path / 'no'}\n"


def test_each_part_is_drawn_and_twice_the_same(tmp_path):
    curves = dict(recipe=[(0.5, 2.0), (1.0, 1.9)], best=[(0.1, 1.9)])
    details = dict(
        race=dict(notes=["a note"], seeds=[dict(recipe_loss=1.9, curves=curves)] * 2),
        memory=dict(notes=[], lengths=[256, 512], bytes=dict(plain=[8, 9], sdpa=[2, 3])),
    )
    record = {name: part(details=details.get(name)) for name in results.PARTS}
    results.write(record, tmp_path)
    drawn = {path.name: path.read_bytes() for path in tmp_path.glob("*.svg")}
    assert set(drawn) == {f"{name}.svg" for name in results.PARTS}
    results.write(record, tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in drawn} == drawn
    assert "- a note" in (tmp_path / "results.md").read_text()


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"else": {}}', '{"race": {"rows": []}}', '{"race": 1}']
)
def test_a_file_that_is_no_record_is_refused(tmp_path, text):
    (tmp_path / results.RECORDED).write_text(text)
    with pytest.raises(ValueError, match="expected the results of a benchmark in .*results.json"):
        results.load(tmp_path)


def test_readme_gets_what_was_asked_for_between_its_marks(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{results.BEGIN}\nold\n{results.END}\nafter\n")
    for _ in range(2):
        results.write({"training": part(1.5, asked=2.0)}, tmp_path, readme)
        text = readme.read_text()
        assert text.startswith(f"before\n{results.BEGIN}\n") and "old" not in text
        assert text.endswith(f"{results.END}\nafter\n") and text.count("1.5 (missed)") == 1
        assert "](benchmarks/training.svg)" in text
    with pytest.raises(ValueError, match="once each"):
        results.into_readme("no marks", {})


def test_the_readme_shows_what_is_recorded():
    text, recorded = (ROOT / "README.md").read_text(encoding="utf-8"), results.load()
    if recorded:
        assert results.into_readme(text, recorded) == text
        assert results.markdown(recorded) == (results.FOLDER / "results.md").read_text("utf-8")
        assert all((results.FOLDER / f"{name}.svg").exists() for name in recorded)
    else:
        assert f"{results.BEGIN}\nNot run yet.\n{results.END}" in text


# The same model by all hands


@pytest.mark.parametrize("build", PINNED)
def test_a_peer_with_our_weights_has_our_logits(build):
    model = randomise(Decoder(CONFIG))
    tokens = torch.randint(29, (2, 11))
    theirs = build(model).eval()
    assert peers.count(theirs) == peers.count(model)
    torch.testing.assert_close(theirs.logits(tokens), model(tokens), rtol=1e-4, atol=1e-4)


def test_the_biases_that_one_peer_lacks_are_those_of_attention_and_of_norms():
    model = Decoder(CONFIG)
    per_block = 4 * CONFIG.d_model + 2 * CONFIG.d_model
    assert peers.absent_biases(model) == CONFIG.n_layers * per_block + CONFIG.d_model


def test_what_is_not_the_same_is_not_timed():
    model, tokens = Decoder(CONFIG), torch.randint(29, (2, 11))

    def loss(other, factor=1.0):
        return lambda x, y: factor * cross_entropy(other(x), y)

    training.check_same({"same": (model, loss(model), 1e-4)}, model, tokens, tokens)
    with pytest.raises(peers.Incomparable, match="^else: expected a loss of"):
        training.check_same({"else": (model, loss(model, 1.01), 1e-4)}, model, tokens, tokens)
    small = Decoder(Config(29, 13, 12, 3, 1))
    with pytest.raises(peers.Incomparable, match="^small: expected .* parameters, got"):
        training.check_same({"small": (small, loss(small), 1e-4)}, model, tokens, tokens)


def test_a_step_of_training_changes_every_weight():
    torch.manual_seed(0)
    model, tokens = randomise(Decoder(CONFIG)), torch.randint(29, (3, 13))
    before = [p.clone() for p in model.parameters()]
    step = training.stepper(model, lambda x, y: cross_entropy(model(x), y), tokens, tokens)
    step()
    pairs = zip(before, model.parameters(), strict=True)
    assert all(not torch.equal(old, new) for old, new in pairs)


def test_nanogpt_is_read_from_the_folder_that_is_named(tmp_path):
    with pytest.raises(peers.MissingPeer, match="expected nanoGPT's model.py in .*, found none"):
        peers.nanogpt(Decoder(CONFIG), tmp_path)


@pytest.mark.parametrize("library", ["transformers", "x_transformers"])
def test_a_missing_peer_is_named_with_the_way_to_get_it(library, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, library, None)
    build = peers.x_transformers if library[0] == "x" else PINNED[0]
    with pytest.raises(peers.MissingPeer, match="is not installed: python -m pip install -r"):
        build(Decoder(CONFIG))


@pytest.mark.parametrize(
    "error", [peers.MissingPeer("it is not there"), CorpusNotFound("it is not there")]
)
def test_what_is_missing_is_one_line_and_nothing_is_written(error, tmp_path, monkeypatch, capsys):
    def run(rounds, quick):
        raise error

    monkeypatch.setattr(race, "run", run)
    threads = str(torch.get_num_threads())
    how = ["--only", "race", "--threads", threads, "--out", str(tmp_path)]
    assert command.main(how) == command.UNABLE
    assert capsys.readouterr().err == "race ...\nbenchmarks: it is not there\n"
    assert list(tmp_path.iterdir()) == []


# The four parts


def test_nanogpts_schedule():
    recipe = race.published().recipe
    shares = [race.cosine(step, recipe) for step in range(recipe.steps)]
    assert shares[0] == pytest.approx(1 / 101) and shares[100] == 1.0
    assert shares[1050] == pytest.approx(0.55) and shares[-1] == pytest.approx(0.1, abs=1e-5)
    assert shares[:101] == sorted(shares[:101]) and shares[100:] == sorted(shares[100:])[::-1]


def test_both_contestants_are_of_the_agreed_size():
    for contest in (race.published(), race.best()):
        race.check_budget(contest.pieces(Decoder(Config(65, **race.SIZES))))
    with pytest.raises(peers.Incomparable, match="expected about 800,000 parameters, got"):
        race.check_budget(Decoder(Config(65, 64, 128, 4, 5)))


def test_the_race_stops_at_the_line_and_no_earlier(monkeypatch):
    monkeypatch.setattr(race, "SIZES", dict(n_ctx=7, d_model=12, n_heads=3, n_layers=1))
    monkeypatch.setattr(race, "check_budget", lambda model: None)
    ids = torch.arange(29).repeat(30)
    judged = race.windows(ids, 7)
    recipe = race.Recipe(steps=9, learning_rate=1e-2, warmup=0.0, cooldown=0.0)
    learner = race.Contest(lambda model: model, recipe, batch=4, every=2, how={})
    train = partial(race.trained, 0, learner, 29, ids, judged)
    whole = train()
    assert whole["steps"] == 9 and len(whole["curve"]) == 5
    losses = [loss for _, loss in whole["curve"]]
    line = (losses[1] + losses[2]) / 2  # between the records of 4 and of 6 steps
    early = train(line=line)
    assert early["steps"] == 6 and early["loss"] <= line < losses[1]
    assert train(line=0.0)["steps"] == 9 and train(line=0.0)["loss"] > 0


def test_a_text_that_differs_is_refused_unless_two_tokens_tie():
    model = Decoder(CONFIG)
    written = torch.randint(29, (2, 9))
    generation.check_same(model, written, written, "ours")
    other = written.clone()
    other[1, 5] = (other[1, 5] + 1) % 29
    with torch.no_grad():
        model.W_E.zero_()  # all tokens tie
        generation.check_same(model, other, written, "theirs")
        randomise(model)
    with pytest.raises(peers.Incomparable, match="theirs: expected token .* at position 5, got"):
        generation.check_same(model, other, written, "theirs")
    with pytest.raises(peers.Incomparable, match=r"expected \(2, 9\), got \(2, 8\)"):
        generation.check_same(model, other[:, 1:], written, "theirs")


def test_both_libraries_write_the_same_text():
    model, tokens = generation.sharp(Config(29, 24, 12, 3, 2)), torch.randint(29, (3, 5))
    texts = [
        writer() for writer in (generation.ours(model, tokens, 17),
                                generation.theirs(model, "sdpa", tokens, 17))
    ]  # fmt: skip
    assert texts[0].shape == (3, 22) and len(texts[0][:, 5:].unique()) > 9
    generation.check_same(model, texts[1], texts[0], "transformers")


def test_memory_is_what_one_process_needs():
    seq = 1024
    needed = memory.child("plain", seq)["bytes"]
    pattern = memory.N_HEADS * seq * seq * 4
    assert pattern <= needed < 8 * pattern
    with pytest.raises(peers.Incomparable, match="^none at 8 tokens: KeyError: 'none'"):
        memory.child("none", 8)


def test_all_ways_give_the_same():
    given = memory.inputs(150)
    plain, *others = (attend(*given) for attend in memory.ways().values())
    for other in others:
        torch.testing.assert_close(other, plain, rtol=0, atol=memory.SAME)


def test_the_record_is_json_in_the_order_of_the_parts():
    record = json.loads(results.as_json(ratios_only(memory=1.0, training=2.0)))
    assert list(record) == ["training", "memory"]
