"""Training: batches, the loss, and a loop whose result depends on nothing but its arguments."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decoder import Config, Decoder
from decoder.batches import described, numbered_generator
from decoder.progress import progress_bar
from decoder.train import (
    Recipe,
    Training,
    adamw,
    bits_per_character,
    cross_entropy,
    evaluate,
    fresh,
    random_windows,
    shuffled,
    split,
    train,
    trapezoid,
    watch,
    windows,
)

CONFIG = Config(d_vocab=11, n_ctx=7, d_model=6, n_heads=2, n_layers=2)


def tiny_model(seed=0):
    torch.manual_seed(seed)
    return Decoder(CONFIG)


def counting(n_tokens=200):
    """0, 1, ..., 10, 0, 1, ...: what a model learns quickly."""
    return torch.arange(n_tokens) % CONFIG.d_vocab


def batches(batch_size=3, seed=0):
    return shuffled(*windows(counting(), CONFIG.n_ctx), batch_size, seed)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# Batches


@settings(deadline=None)
@given(st.integers(2, 200), st.floats(0.01, 0.99))
def test_split_loses_nothing_and_cuts_by_place(n, fraction):
    if not 0 < int(n * fraction) < n:
        with pytest.raises(ValueError, match=f"not be empty|not empty.*length {n}"):
            split(range(n), fraction)
        return
    first, rest = split(range(n), fraction)
    assert [*first, *rest] == list(range(n))
    assert len(first) == int(n * fraction)


def test_split_takes_text_and_tensors_alike():
    assert split("abcdefghij") == ("abcdefghi", "j")
    first, rest = split(torch.arange(5), 0.6)
    assert (first.tolist(), rest.tolist()) == ([0, 1, 2], [3, 4])


@settings(deadline=None)
@given(st.integers(1, 23), st.integers(2, 150))
def test_windows_hold_each_token_once_and_the_next_as_its_target(n_ctx, n_tokens):
    ids = torch.arange(n_tokens)
    if n_tokens <= n_ctx:
        with pytest.raises(ValueError, match=rf"at least {n_ctx + 1} tokens.*got {n_tokens}$"):
            windows(ids, n_ctx)
        return
    inputs, targets = windows(ids, n_ctx)
    assert inputs.shape == targets.shape == ((n_tokens - 1) // n_ctx, n_ctx)
    assert inputs.flatten().tolist() == list(range(inputs.numel()))
    assert torch.equal(targets, inputs + 1)
    assert n_tokens - 1 - inputs.numel() < n_ctx  # no window more would have fitted


def test_an_epoch_shows_each_window_once_in_an_order_of_its_own():
    inputs, targets = windows(torch.arange(7 * 12 + 1), 7)
    batch = shuffled(inputs, targets, batch_size=4, seed=5)
    epochs = [[batch(3 * epoch + i) for i in range(3)] for epoch in range(3)]
    orders = [[row for x, _ in epoch for row in (x[:, 0] // 7).tolist()] for epoch in epochs]
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert len({tuple(order) for order in [*orders, range(12)]}) == 4
    assert all(torch.equal(y, x + 1) for epoch in epochs for x, y in epoch)


def test_what_does_not_fill_a_batch_gets_its_turn_later():
    batch = shuffled(*windows(torch.arange(5 * 7 + 1), 7), batch_size=2)  # 5 windows: one left out
    assert {batch(step)[0].shape for step in range(20)} == {(2, 7)}
    assert all(len({*batch(2 * e)[0][:, 0].tolist(), *batch(2 * e + 1)[0][:, 0].tolist()}) == 4
               for e in range(10))  # fmt: skip
    assert {row for step in range(20) for row in batch(step)[0][:, 0].tolist()} == {
        0, 7, 14, 21, 28,
    }  # fmt: skip


def test_random_windows_begin_anywhere_and_the_step_fixes_them():
    batch = random_windows(torch.arange(40), n_ctx=5, batch_size=200, seed=2)
    inputs, targets = batch(3)
    assert torch.equal(targets, inputs + 1) and inputs.shape == (200, 5)
    assert set(inputs[:, 0].tolist()) == set(range(35))  # the last target is the last token
    assert torch.equal(inputs, inputs[:, :1] + torch.arange(5))
    assert torch.equal(batch(3)[0], inputs) and not torch.equal(batch(4)[0], inputs)
    assert not torch.equal(random_windows(torch.arange(40), 5, 200, seed=1)(3)[0], inputs)
    assert random_windows(torch.arange(6), 5, 2)(0)[1].tolist() == [[1, 2, 3, 4, 5]] * 2


def test_batches_depend_on_seed_and_step_alone():
    torch.manual_seed(1)
    one, other = batches(seed=3), batches(seed=3)
    first = one(17)
    torch.manual_seed(2)
    other(4)
    assert torch.equal(other(17)[0], first[0])
    assert not torch.equal(batches(seed=4)(17)[0], first[0])


def test_fresh_batches_differ_by_step_and_by_seed_and_come_back():
    def make(generator):
        return torch.rand(3, generator=generator), None

    drawn = [fresh(make, seed)(step)[0] for seed in (0, 1) for step in range(50)]
    assert len({tuple(x.tolist()) for x in drawn}) == 100
    assert torch.equal(fresh(make, 1)(20)[0], drawn[70])


def test_numbered_generators_mix_all_of_both_numbers():
    # torch alone would take seeds 0 and 2**32 for the same.
    pairs = [(0, 0), (2**32, 0), (0, 2**32), (1, 23), (12, 3), (-1, 0), (2**70, 1)]
    drawn = {torch.rand(1, generator=numbered_generator(*pair)).item() for pair in pairs}
    assert len(drawn) == len(pairs)


BAD_BATCHES = {
    "fraction 0": (lambda: split("abc", 0), "fraction above 0 and below 1, got 0"),
    "fraction 1": (lambda: split("abc", 1.0), "got 1.0"),
    "fraction nan": (lambda: split("abc", math.nan), "got nan"),
    "split nothing": (lambda: split(""), "got 0 and 0"),
    "split one": (lambda: split("a"), r"got 0 and 1 \(length 1, fraction 0.9\)"),
    "list of ids": (lambda: windows([1, 2, 3], 2), r"int64 tensor of \(n_tokens,\), got list"),
    "float ids": (lambda: windows(torch.zeros(9), 2), r"got torch.float32 of \(9,\)"),
    "batch of ids": (lambda: windows(counting()[None], 2), r"got torch.int64 of \(1, 200\)"),
    "n_ctx 0": (lambda: windows(counting(), 0), "n_ctx of at least 1, got 0"),
    "too short": (
        lambda: windows(counting(7), 7),
        r"at least 8 tokens \(n_ctx=7 and the one that follows\), got 7",
    ),
    "random, too short": (lambda: random_windows(counting(7), 7, 2), "at least 8 tokens"),
    "random, batch_size 0": (
        lambda: random_windows(counting(), 7, 0),
        "batch_size of at least 1, got 0",
    ),
    "shapes differ": (
        lambda: shuffled(torch.zeros(3, 5), torch.zeros(3, 4), 1),
        r"got \(3, 5\) and \(3, 4\)",
    ),
    "one dimension": (lambda: shuffled(torch.zeros(3), torch.zeros(3), 1), r"got \(3,\) and"),
    "batch_size 0": (lambda: batches(batch_size=0), "batch_size from 1 to 28 windows, got 0"),
    "batch_size 29": (lambda: batches(batch_size=29), "from 1 to 28 windows, got 29"),
}


@pytest.mark.parametrize("case", BAD_BATCHES)
def test_bad_batches(case):
    call, message = BAD_BATCHES[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_what_came_is_described():
    assert described(torch.zeros(2, 3)) == "torch.float32 of (2, 3)"
    assert described(None) == "NoneType"


# The loss


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 7), st.integers(1, 11), st.integers(0, 99))
def test_cross_entropy_is_torchs(batch, seq, d_vocab, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 30 * torch.randn(batch, seq, d_vocab, generator=generator, dtype=torch.float64)
    targets = torch.randint(d_vocab, (batch, seq), generator=generator)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = cross_entropy(ours, targets)
    expected = torch.nn.functional.cross_entropy(theirs.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)


def test_cross_entropy_survives_large_logits_and_impossible_tokens():
    logits = torch.tensor([[1e30, 0.0, -math.inf]])
    assert cross_entropy(logits, torch.tensor([0])) == 0
    assert cross_entropy(logits, torch.tensor([2])) == math.inf


def test_knowing_nothing_costs_ln_d_vocab():
    assert cross_entropy(torch.zeros(3, 13), torch.tensor([0, 5, 12])).item() == pytest.approx(
        math.log(13), rel=1e-6
    )


@pytest.mark.parametrize("batch_size", [1, 4, 5, 64])
def test_evaluate_is_the_mean_over_all_tokens_however_they_are_cut(batch_size):
    model, (inputs, targets) = tiny_model(), windows(counting(7 * 9 + 1), 7)
    expected = cross_entropy(model(inputs), targets).item()
    assert evaluate(model, inputs, targets, batch_size) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_evaluate_leaves_the_model_as_it_was(training):
    model = tiny_model().train(training)
    seen = []
    model.register_forward_hook(lambda *_: seen.append((model.training, torch.is_grad_enabled())))
    evaluate(model, *windows(counting(), 7))
    assert set(seen) == {(False, False)} and model.training is training
    assert all(p.grad is None for p in model.parameters())


def test_bits_per_character_of_a_known_case():
    # 8 equally likely characters, in tokens of two characters each: ln 64 nats per token.
    assert bits_per_character(math.log(64), n_tokens=50, n_characters=100) == pytest.approx(3)


BAD_LOSS = {
    "shapes": (
        lambda: cross_entropy(torch.zeros(2, 3, 5), torch.zeros(2, 4, dtype=torch.int64)),
        r"got \(2, 3, 5\) and torch.int64 of \(2, 4\)",
    ),
    "float targets": (lambda: cross_entropy(torch.zeros(2, 5), torch.zeros(2)), "torch.float32"),
    "no windows": (
        lambda: evaluate(tiny_model(), torch.zeros(0, 7), torch.zeros(0, 7)),
        "windows and a batch_size of at least 1, got 0 and 64",
    ),
    "batch_size": (lambda: evaluate(tiny_model(), *windows(counting(), 7), 0), "got 28 and 0"),
    "no text": (lambda: bits_per_character(1.0, 1, 0), "got 1, 0"),
    "no tokens": (lambda: bits_per_character(1.0, 0, 1), "got 0, 1"),
}


@pytest.mark.parametrize("case", BAD_LOSS)
def test_bad_loss(case):
    call, message = BAD_LOSS[case]
    with pytest.raises(ValueError, match=message):
        call()


# Recipe, schedule, optimizer


@pytest.mark.parametrize(
    "name, value",
    [("steps", v) for v in (0, -1, 1.0, True, None)]
    + [("learning_rate", v) for v in (0, -1e-3, math.inf, math.nan)]
    + [("clip", v) for v in (0, math.nan)]
    + [("weight_decay", v) for v in (-0.1, math.nan, math.inf)]
    + [("warmup", v) for v in (-0.1, 0.6, math.nan)]
    + [("cooldown", v) for v in (-0.1, 0.96, math.nan)],
)
def test_recipe_names_what_is_wrong(name, value):
    with pytest.raises(ValueError, match=f"{name}.* {value}"):
        Recipe(**{"steps": 10, name: value})


def test_schedule_rises_stays_and_falls():
    shares = [trapezoid(step, Recipe(20, warmup=0.2, cooldown=0.25)) for step in range(20)]
    rising, flat, falling = shares[:4], shares[4:15], shares[15:]
    assert rising == pytest.approx([0.25, 0.5, 0.75, 1])
    assert flat == [1] * 11
    assert falling == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])


@settings(deadline=None)
@given(st.integers(1, 300), st.floats(0, 0.5), st.floats(0, 0.5))
def test_every_step_learns_something(steps, warmup, cooldown):
    recipe = Recipe(steps, warmup=warmup, cooldown=cooldown)
    shares = [trapezoid(step, recipe) for step in range(steps)]
    assert all(0 < share <= 1 for share in shares)


def test_without_warmup_and_cooldown_the_rate_stays():
    recipe = Recipe(9, warmup=0, cooldown=0)
    assert {trapezoid(step, recipe) for step in range(9)} == {1.0}


def test_only_matrices_are_shrunk():
    model = tiny_model()
    model.W_E.requires_grad_(False)
    optimizer = adamw(model, Recipe(10, weight_decay=0.3))
    decay = {p: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    for name, p in model.named_parameters():
        assert decay.get(p) == (None if name == "W_E" else 0.3 if p.ndim == 2 else 0.0), name


def test_a_model_of_matrices_only_can_be_trained():
    class Table(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.W = torch.nn.Parameter(torch.zeros(11, 11))

        def forward(self, tokens):
            return self.W[tokens]

    history = train(Table(), batches(), Recipe(200, learning_rate=0.1))
    assert history[-1]["train_loss"] < 0.5


# The loop


def test_learns_what_can_be_learnt():
    model, validation = tiny_model(), windows(counting(), 7)
    start = evaluate(model, *validation)
    history = train(model, batches(), Recipe(300, 1e-2), validation, evaluate_every=100)
    assert start == pytest.approx(math.log(11), rel=0.02)
    assert history[-1]["validation_loss"] < 0.05
    assert history[-1]["validation_loss"] == evaluate(model, *validation)


def test_records_say_where_it_stands():
    recipe = Recipe(25, learning_rate=2e-3)
    each = list(Training(tiny_model(), batches(), recipe))
    history = train(tiny_model(), batches(), recipe, evaluate_every=10)
    assert [r["step"] for r in each] == list(range(1, 26))
    assert [r["tokens"] for r in each] == [3 * 7 * step for step in range(1, 26)]
    assert [r["learning_rate"] for r in each] == [
        2e-3 * trapezoid(step, recipe) for step in range(25)
    ]
    assert [r["step"] for r in history] == [10, 20, 25]
    for record, part in zip(history, (each[:10], each[10:20], each[20:]), strict=True):
        mean = sum(r["train_loss"] for r in part) / len(part)
        assert record == part[-1] | {"train_loss": pytest.approx(mean)}  # no validation asked for


def test_one_step_is_clipped_adamw_on_the_mean_loss():
    """Against the update as Loshchilov and Hutter write it, for a first step."""
    model, rate = tiny_model(), 1e-2
    recipe = Recipe(1, rate, weight_decay=0.2, clip=1e-3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    inputs, targets = batches()(0)
    logits = model(inputs).flatten(0, 1)
    torch.nn.functional.cross_entropy(logits, targets.flatten()).backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    norm = torch.cat([g.flatten() for g in grads.values()]).norm()
    assert norm > 1e-3
    (record,) = Training(model, batches(), recipe)
    assert record["learning_rate"] == rate
    for name, p in model.named_parameters():
        g = grads[name] * 1e-3 / norm
        decayed = before[name] * (1 - rate * (0.2 if p.ndim == 2 else 0))
        # After one step both means, corrected for their start at 0, are g and g squared.
        torch.testing.assert_close(p.detach(), decayed - rate * g / (g.abs() + 1e-8))


def test_the_same_arguments_give_the_same_weights_whatever_was_drawn_before():
    results = []
    for junk in (1, 2):
        model = tiny_model()
        torch.manual_seed(junk)
        before = torch.get_rng_state()
        train(model, batches(seed=3), Recipe(15), windows(counting(), 7), evaluate_every=4 + junk)
        assert torch.equal(torch.get_rng_state(), before)  # and nothing is drawn
        results.append(weights(model))
    assert torch.equal(*results)
    other = tiny_model()
    train(other, batches(seed=4), Recipe(15))
    assert not torch.equal(weights(other), results[0])


def test_pieces_can_be_put_in_their_place():
    factors = []

    def halved(step, recipe):
        factors.append(step)
        return 0.5

    def sgd(model, recipe):
        return torch.optim.SGD(model.parameters(), lr=recipe.learning_rate)

    model, start = tiny_model(), tiny_model()
    recipe = Recipe(1, learning_rate=0.1, clip=1e9)
    train(model, batches(), recipe, optimizer=sgd, schedule=halved)
    cross_entropy(start(batches()(0)[0]), batches()(0)[1]).backward()
    expected = torch.cat([(p - 0.05 * p.grad).detach().flatten() for p in start.parameters()])
    torch.testing.assert_close(weights(model), expected)
    assert factors == [0]


@pytest.mark.parametrize("stop", [0, 1, 7, 20])
def test_a_training_taken_up_again_ends_bitwise_the_same(stop):
    recipe = Recipe(20)
    whole = Training(tiny_model(), batches(), recipe)
    expected = list(whole)
    first = Training(tiny_model(), batches(), recipe)
    records = [first.advance() for _ in range(stop)]
    saved = {name: t.clone() for name, t in first.tensors().items()}
    second = Training(tiny_model(seed=9), batches(), recipe)
    second.restore(saved, first.step, first.tokens)
    assert records + list(second) == expected
    assert torch.equal(weights(second.model), weights(whole.model))
    assert second.tensors().keys() == whole.tensors().keys()


def test_the_state_of_another_model_is_refused():
    saved = Training(tiny_model(), batches(), Recipe(1)).tensors()
    other = Decoder(Config(d_vocab=11, n_ctx=7, d_model=8, n_heads=2, n_layers=2))
    with pytest.raises(
        ValueError, match="another model: size mismatch for W_E.*11, 6.*11, 8.* more\\)$"
    ):
        Training(other, batches(), Recipe(1)).restore(saved, 0, 0)


def test_a_loss_that_is_no_number_stops_before_it_spoils_the_weights():
    model = tiny_model()
    training = Training(model, batches(), Recipe(3))
    training.advance()
    with torch.no_grad():
        model.W_E[0, 0] = math.inf
    before = weights(model).clone()
    with pytest.raises(FloatingPointError, match="loss became nan at step 2.*lower learning rate"):
        training.advance()
    assert torch.equal(weights(model), before)


def test_evaluate_every_must_be_positive():
    with pytest.raises(ValueError, match="evaluate_every of at least 1, got 0"):
        train(tiny_model(), batches(), Recipe(1), evaluate_every=0)


def test_records_can_be_looked_at_while_it_trains():
    model = tiny_model()
    seen = [
        (record["step"], weights(model).clone())
        for record in watch(Training(model, batches(), Recipe(6)), evaluate_every=2)
    ]
    assert [step for step, _ in seen] == [2, 4, 6]
    assert not torch.equal(seen[0][1], seen[1][1])


def test_nothing_is_shown_where_output_is_stored(capfd, monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    train(tiny_model(), batches(), Recipe(2))
    assert capfd.readouterr() == ("", "")
    monkeypatch.setenv("JPY_SESSION_NAME", "a notebook in Lab")
    with progress_bar(total=10, initial=3) as bar:
        assert not bar.disable and (bar.total, bar.n, bar.leave) == (10, 3, False)
