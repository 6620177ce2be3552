"""Generation: the cuts and searches against transformers', the cache against none at all."""

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pieces import randomise
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.generation import (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from decoder import Config, Decoder, positions
from decoder.cache import Context, check_prompt
from decoder.generate import (
    KeyValueCache,
    LayerCache,
    apply_temperature,
    beam_search,
    cache_bytes,
    generate,
    keep_top_k,
    keep_top_p,
    pick,
    stream,
)
from decoder.gpt2 import load_gpt2

CONFIG = Config(d_vocab=29, n_ctx=13, d_model=12, n_heads=3, n_layers=2)
SCHEMES = [
    scheme
    for scheme in vars(positions).values()
    if inspect.isclass(scheme) and issubclass(scheme, positions.Positions)
]


def make_model(scheme=positions.Learned, config=CONFIG, seed=0):
    """A decoder whose every weight matters, with another position scheme in its place."""
    model = Decoder(config)
    sizes = {name: size for name, size in config.to_dict().items()}
    wanted = inspect.signature(scheme).parameters
    model.positions = scheme(**{name: size for name, size in sizes.items() if name in wanted})
    return randomise(model, seed=seed)


def prompt(batch, seq, seed=0, d_vocab=CONFIG.d_vocab):
    return torch.randint(d_vocab, (batch, seq), generator=torch.Generator().manual_seed(seed))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def gpt2s():
    """A random GPT-2 of transformers', and the same in ours."""
    torch.manual_seed(0)
    sizes = dict(vocab_size=23, n_positions=40, n_embd=12, n_head=3, n_layer=2)
    none = dict(bos_token_id=None, eos_token_id=None)
    theirs = GPT2LMHeadModel(GPT2Config(**sizes, **none, initializer_range=0.6)).eval()
    return load_gpt2(theirs.state_dict(), n_heads=3), theirs


def theirs_generate(theirs, tokens, stop, **how):
    ends = dict(eos_token_id=stop, pad_token_id=stop, attention_mask=torch.ones_like(tokens))
    return theirs.generate(tokens, do_sample=False, **ends, **how)


# Against transformers


# 15 and 19 are what it writes often: a stop that never comes would test nothing.
STOPS = [None, 15, 19]


@pytest.mark.parametrize("stop", STOPS)
def test_greedy_writes_what_transformers_writes(gpt2s, stop):
    ours, theirs = gpt2s
    tokens = prompt(40, 5, d_vocab=23)
    expected = theirs_generate(theirs, tokens, stop, max_new_tokens=17)
    assert torch.equal(generate(ours, tokens, 17, temperature=0, stop_token=stop), expected)
    assert stop is None or 20 < (expected[:, 5:] == stop).any(dim=1).sum() < 40


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("n_beams, penalty", [(1, 1.0), (2, 1.0), (3, 0.0), (4, -1.0), (5, 2.0)])
def test_beams_write_what_transformers_writes(gpt2s, n_beams, penalty, stop):
    ours, theirs = gpt2s
    tokens = prompt(40, 5, d_vocab=23)
    how = dict(max_new_tokens=17, num_beams=n_beams, length_penalty=penalty)
    expected = theirs_generate(theirs, tokens, stop, **how)
    for use_cache in (True, False):
        written = beam_search(ours, tokens, 17, n_beams, penalty, stop, use_cache)
        assert torch.equal(written, expected)
    assert stop is None or (expected[:, 5:] == stop).any()


def rows(elements, smallest=2):
    length = st.shared(st.integers(smallest, 19), key="d_vocab")
    row = length.flatmap(lambda n: st.lists(elements, min_size=n, max_size=n))
    return st.lists(row, min_size=1, max_size=3).map(torch.tensor)


# Few distinct values, so that ties are common, and -inf, which an earlier cut leaves.
COARSE = st.sampled_from([-math.inf, -2.0, -1.0, 0.0, 0.5, 1.0]).map(float)
FINE = st.floats(-20, 20, width=32)


def possible(logits):
    """Each row has something above -inf, as a distribution must."""
    return torch.where(logits.isfinite().any(dim=-1, keepdim=True), logits, 0.0)


@settings(deadline=None)
@given(rows(COARSE) | rows(FINE), st.integers(1, 25))
def test_top_k_keeps_what_transformers_keeps(logits, k):
    logits = possible(logits)
    assert torch.equal(keep_top_k(logits, k), TopKLogitsWarper(k)(None, logits))


@settings(deadline=None)
@given(rows(COARSE) | rows(FINE), st.floats(0.001, 1.0) | st.sampled_from([0.25, 0.5, 0.75, 1.0]))
def test_top_p_keeps_what_transformers_keeps(logits, p):
    logits = possible(logits)
    assert torch.equal(keep_top_p(logits, p), TopPLogitsWarper(p)(None, logits))


@settings(deadline=None)
@given(rows(COARSE) | rows(FINE), st.floats(0.05, 20))
def test_temperature_gives_transformers_probabilities(logits, temperature):
    logits = possible(logits)
    ours = apply_temperature(logits, temperature).softmax(dim=-1)
    theirs = TemperatureLogitsWarper(temperature)(None, logits).softmax(dim=-1)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_cuts_together_are_those_of_transformers_in_their_order():
    logits, n = torch.randn(1, 31, generator=seeded()), 20_000
    expected = TemperatureLogitsWarper(1.7)(None, logits)
    expected = TopPLogitsWarper(0.8)(None, TopKLogitsWarper(12)(None, expected))
    drawn = pick(logits.expand(n, -1), 1.7, 12, 0.8, seeded(1))
    shares = torch.bincount(drawn, minlength=31) / n
    probabilities = expected.softmax(dim=-1)[0]
    assert 4 < (probabilities > 0).sum() < 12
    assert torch.equal(shares > 0, probabilities > 0)  # each that is kept has more than 1%
    torch.testing.assert_close(shares, probabilities, rtol=0, atol=4 * 0.5 / math.sqrt(n))


# The cuts by themselves


def test_cuts_of_a_known_distribution():
    logits = torch.tensor([[0.1, 0.4, 0.3, 0.2]]).log()
    kept = {p: keep_top_p(logits, p).isfinite()[0].tolist() for p in (0.01, 0.39, 0.5, 0.75, 1)}
    assert kept == {
        0.01: [False, True, False, False],
        0.39: [False, True, False, False],
        0.5: [False, True, True, False],
        0.75: [False, True, True, True],
        1: [True, True, True, True],
    }
    # Nothing in float32 lies between 1 - 1e-9 and 1: what holds all of the rest still stays.
    assert keep_top_p(logits, 1e-9).isfinite()[0].tolist() == [False, True, False, False]
    # Two of four hold exactly a half: no third one is needed to reach it.
    assert keep_top_p(torch.zeros(1, 4), 0.5).isfinite().sum() == 2
    assert keep_top_k(logits, 3).isfinite()[0].tolist() == [False, True, True, True]
    assert keep_top_k(logits, 9).isfinite().all()


def test_cuts_change_nothing_that_they_keep_and_leave_their_input_alone():
    logits = torch.randn(2, 5, 17, generator=seeded())
    before = logits.clone()
    for cut in (keep_top_k(logits, 4), keep_top_p(logits, 0.6)):
        kept = cut.isfinite()
        assert torch.equal(cut[kept], logits[kept]) and (cut[~kept] == -math.inf).all()
        assert cut.shape == logits.shape and 0 < kept.sum() < kept.numel()
    apply_temperature(logits, 0.5)
    assert torch.equal(logits, before)


@pytest.mark.parametrize(
    "cut",
    [
        lambda x: keep_top_k(x, 3),
        lambda x: keep_top_k(x, 99),
        lambda x: keep_top_p(x, 0.6),
        lambda x: apply_temperature(x, 0.7),
    ],
)
def test_leading_dimensions_are_free(cut):
    logits = torch.randn(2, 3, 19, generator=seeded())
    together = cut(logits)
    for row in range(2):
        for column in range(3):
            torch.testing.assert_close(together[row, column], cut(logits[row, column]))


def test_a_pick_without_cuts_is_from_the_models_own_distribution():
    logits = torch.randn(200, 19, generator=seeded())
    drawn = pick(logits, generator=seeded(1))
    assert torch.equal(drawn, pick(logits, 1.0, None, None, seeded(1)))
    assert not torch.equal(drawn, pick(logits, 2.0, generator=seeded(1)))


def test_temperature_towards_0_is_greedy_and_does_not_overflow():
    logits = torch.tensor([[1.0, 3.0, 2.0], [-1e30, -2e30, 0.0]])
    assert pick(logits, temperature=1e-40).tolist() == [1, 2]
    assert pick(logits, temperature=0).tolist() == [1, 2]


def test_top_k_1_and_a_tiny_top_p_are_greedy():
    model, tokens = make_model(), prompt(3, 4)
    greedy = generate(model, tokens, 9, temperature=0)
    assert torch.equal(generate(model, tokens, 9, top_k=1), greedy)
    assert torch.equal(generate(model, tokens, 9, top_p=1e-6), greedy)
    assert torch.equal(beam_search(model, tokens, 9, n_beams=1), greedy)


# The cache


@pytest.mark.parametrize("scheme", SCHEMES)
def test_all_split_points_of_a_prompt_give_the_same_logits(scheme):
    model, tokens = make_model(scheme), prompt(2, 11)
    whole = model(tokens)
    for cut in range(1, 11):
        cache = KeyValueCache(CONFIG)
        with torch.no_grad():
            parts = [model(tokens[:, :cut], cache), model(tokens[:, cut:], cache)]
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-5, atol=1e-5)
        assert cache.length == 11


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("seq", [1, 2, 7, 12, 13])
def test_with_cache_and_without_write_the_same_also_beyond_n_ctx(scheme, seq):
    model, tokens = make_model(scheme), prompt(2, seq)
    for how in (dict(temperature=0), dict(temperature=1.5, top_k=9, top_p=0.9)):
        with_cache, without = (
            generate(model, tokens, 30, **how, use_cache=use, generator=seeded(4))
            for use in (True, False)
        )
        assert torch.equal(with_cache, without) and with_cache.shape == (2, seq + 30)


@pytest.mark.parametrize("n_ctx", [1, 2, 3, 5, 8])
def test_beyond_n_ctx_the_last_half_is_a_new_prompt(n_ctx):
    config = Config(**CONFIG.to_dict() | dict(n_ctx=n_ctx))
    model, tokens = make_model(config=config), prompt(2, 1)
    seen = []
    model.register_forward_hook(lambda _, args, logits: seen.append(args[0].shape[1]))
    for use_cache in (True, False):
        seen.clear()
        written = generate(model, tokens, 23, temperature=0, use_cache=use_cache)
        window = tokens
        with torch.no_grad():  # the rule in plain words
            for step in range(1, 24):
                assert torch.equal(model(window)[:, -1].argmax(-1), written[:, step])
                window = torch.cat([window, written[:, step, None]], dim=1)
                if window.shape[1] > n_ctx:
                    window = window[:, -max(1, n_ctx // 2) :]
    assert max(seen) <= n_ctx


def test_beyond_n_ctx_little_is_read_twice():
    model, lengths = make_model(), []
    model.register_forward_hook(lambda _, args, logits: lengths.append(args[0].shape[1]))
    generate(model, prompt(2, 9), 40)
    restarts = [n for n in lengths[1:] if n > 1]
    assert lengths[0] == 9 and len(lengths) == 40
    assert restarts == [6] * 5  # 13 // 2 each time that the window of 13 is full
    assert lengths.index(6) == 13 - 9 + 1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_beams_are_the_same_with_cache_and_without_beyond_n_ctx(scheme):
    model, tokens = make_model(scheme), prompt(3, 5)
    how = dict(max_new_tokens=25, n_beams=3, stop_token=4)
    ours = [beam_search(model, tokens, **how, use_cache=use) for use in (True, False)]
    assert torch.equal(*ours)


def test_each_token_is_computed_once():
    model, seen = make_model(), []
    model.register_forward_hook(lambda _, args, logits: seen.append(tuple(args[0].shape)))
    generate(model, prompt(2, 5), 6)
    assert seen == [(2, 5)] + [(2, 1)] * 5


def test_the_defaults_are_those_that_are_documented():
    model = make_model()
    tokens = prompt(3, 5)
    beams = beam_search(model, tokens, 32, 4, 1.0, None, True)
    assert beams.shape == (3, 37)
    assert torch.equal(beam_search(model, tokens), beams)
    plain = dict(temperature=1.0, top_k=None, top_p=None, use_cache=True, stop_token=None)
    drawn = generate(model, tokens, 32, generator=seeded(3), **plain)
    assert drawn.shape == (3, 37)
    assert torch.equal(generate(model, tokens, generator=seeded(3)), drawn)
    assert len(list(stream(model, tokens))) == 32


def test_beams_are_told_apart_by_their_defaults():
    """With other numbers of beams, or another penalty, the same table is continued otherwise."""
    model = randomised_table(seed=0)
    start = torch.arange(11)[:, None]
    written = {
        (n_beams, penalty): beam_search(model, start, 9, n_beams, penalty, 3, use_cache=False)
        for n_beams in (3, 4, 5)
        for penalty in (0.0, 1.0, 2.0)
    }
    default = beam_search(model, start, 9, stop_token=3, use_cache=False)
    same = {k for k, v in written.items() if v.shape == default.shape and torch.equal(v, default)}
    assert same == {(4, 1.0)}


def test_a_context_keeps_keys_and_values_unless_told_otherwise():
    assert isinstance(Context(make_model()).cache, KeyValueCache)
    assert Context(make_model(), use_cache=False).cache is None


@pytest.mark.parametrize("use_cache", [None, True])
def test_what_is_written_is_cached_unless_told_otherwise(use_cache):
    model, how = make_model(), {} if use_cache is None else {"use_cache": use_cache}
    lengths = []
    model.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    beam_search(model, prompt(2, 5), 6, 3, **how)
    assert lengths == [5, 1, 1, 1, 1, 1]
    lengths.clear()
    generate(model, prompt(2, 5), 6, **how)
    assert lengths == [5, 1, 1, 1, 1, 1]
    for write in (generate, beam_search):
        lengths.clear()
        write(model, prompt(2, 5), 6, use_cache=False)
        assert lengths == [5, 6, 7, 8, 9, 10]


def test_all_is_computed_where_the_tokens_are():
    """Nothing is made on torch's default device, which may be another than the tokens'."""
    model, start = randomised_table(seed=0), torch.arange(11)[:, None]
    how = dict(use_cache=False, stop_token=3)

    def written():
        drawn = generate(model, start, 9, generator=seeded(), **how)
        return beam_search(model, start, 9, 3, **how), drawn

    expected = written()
    with torch.device("meta"):
        came = written()
    assert all(map(torch.equal, came, expected))


@pytest.mark.parametrize("dtype, size", [(torch.float32, 4), (torch.float64, 8)])
def test_memory_is_what_is_predicted(dtype, size):
    cache, model = KeyValueCache(CONFIG), make_model().to(dtype)
    assert cache.n_bytes == 0
    with torch.no_grad():
        for _ in range(3):  # and does not grow
            model(prompt(5, 2), cache)
            assert cache.n_bytes == cache_bytes(CONFIG, 5, size) == 2 * 2 * 5 * 3 * 13 * 4 * size
    assert cache_bytes(CONFIG, 5) == cache_bytes(CONFIG, 5, 4)


def test_appending_copies_what_is_new_and_nothing_else():
    cache = LayerCache(7)
    k, v = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 2)
    first_k, first_v = cache.append(k[:, :, :3], v[:, :, :3])
    all_k, all_v = cache.append(k[:, :, 3:], v[:, :, 3:])
    assert torch.equal(all_k, k) and torch.equal(all_v, v) and cache.length == 4
    assert first_k.data_ptr() == all_k.data_ptr() and first_v.data_ptr() == all_v.data_ptr()


def test_a_cleared_cache_starts_anew():
    cache, model = KeyValueCache(CONFIG), make_model()
    with torch.no_grad():
        model(prompt(2, 9, seed=1), cache)
        cache.clear()
        assert cache.length == 0
        torch.testing.assert_close(model(prompt(2, 7), cache), model(prompt(2, 7)))


def test_rows_can_go_on_from_other_rows():
    model, tokens, more = make_model(), prompt(3, 4), prompt(3, 5, seed=1)
    rows, cache = torch.tensor([2, 0, 2]), KeyValueCache(CONFIG)
    with torch.no_grad():
        model(tokens, cache)
        cache.reorder(rows)
        whole = model(torch.cat([tokens[rows], more], dim=1))[:, 4:]
        torch.testing.assert_close(model(more, cache), whole, rtol=1e-5, atol=1e-5)


def test_gradients_through_a_cache_are_right_or_refused():
    model, tokens = make_model(), prompt(2, 6)
    model(tokens, KeyValueCache(CONFIG)).square().sum().backward()
    cached = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model(tokens).square().sum().backward()
    for ours, p in zip(cached, model.parameters(), strict=True):
        torch.testing.assert_close(ours, p.grad)
    cache = KeyValueCache(CONFIG)
    parts = torch.cat([model(tokens[:, :3], cache), model(tokens[:, 3:], cache)], dim=1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        parts.sum().backward()


# Generating


def test_a_seed_fixes_what_is_drawn_and_nothing_else_does():
    model, tokens = make_model(), prompt(2, 3)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = generate(model, tokens, 20, generator=seeded(5))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(generate(model, tokens, 20, generator=seeded(5)), first)
    assert not torch.equal(generate(model, tokens, 20, generator=seeded(6)), first)
    drawn = generate(model, tokens, 20)
    torch.manual_seed(2)
    assert torch.equal(generate(model, tokens, 20), drawn)  # without one, torch's own


@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_as_it_is(training):
    model = make_model().train(training)
    before = [p.clone() for p in model.parameters()]
    seen = []
    model.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    ids = generate(model, prompt(2, 3), 4)
    beam_search(model, prompt(2, 3), 4)
    assert model.training is training and set(seen) == {False} and torch.is_grad_enabled()
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert ids.dtype == torch.int64
    model(ids).sum().backward()  # what was written can be learnt from


def test_stream_gives_the_same_one_by_one():
    model, tokens = make_model(), prompt(3, 4)
    pieces = list(stream(model, tokens, 7, generator=seeded()))
    assert [tuple(p.shape) for p in pieces] == [(3,)] * 7
    whole = generate(model, tokens, 7, generator=seeded())
    assert torch.equal(whole, torch.cat([tokens, torch.stack(pieces, dim=1)], dim=1))


def test_stream_leaves_gradients_on_for_its_reader():
    for _ in stream(make_model(), prompt(1, 2), 2):
        assert torch.is_grad_enabled()


def test_nothing_to_add_gives_the_prompt():
    tokens = prompt(2, 3)
    assert torch.equal(generate(make_model(), tokens, 0), tokens)
    assert torch.equal(beam_search(make_model(), tokens, 0), tokens)


class Script(torch.nn.Module):
    """A stand-in for a model: row r expects script[r][position] next."""

    def __init__(self, script):
        super().__init__()
        self.config, self.script = CONFIG, torch.tensor(script)

    def forward(self, tokens, cache=None):
        script = self.script[: len(tokens), : tokens.shape[1]]
        return torch.nn.functional.one_hot(script, CONFIG.d_vocab) * 9.0


def test_rows_stop_each_at_its_own_time():
    script = [[3, 5, 8, 1, 2, 4, 6], [5, 9, 9, 9, 9, 9, 9], [1, 1, 1, 5, 7, 7, 7]]
    model, tokens = Script(script), torch.full((3, 1), 5)  # a stop in the prompt stops nothing
    ids = generate(model, tokens, 6, temperature=0, use_cache=False, stop_token=5)
    assert ids.tolist() == [[5, 3, 5, 5, 5], [5, 5, 5, 5, 5], [5, 1, 1, 1, 5]]
    ids = generate(model, tokens, 3, temperature=0, use_cache=False, stop_token=5)
    assert ids.tolist() == [[5, 3, 5, 5], [5, 5, 5, 5], [5, 1, 1, 1]]
    ids = generate(model, tokens, 3, temperature=0, use_cache=False)
    assert ids.tolist() == [[5, 3, 5, 8], [5, 5, 9, 9], [5, 1, 1, 1]]


class Table(torch.nn.Module):
    """A stand-in for a model: what comes next depends on the last token alone."""

    def __init__(self, probabilities):
        super().__init__()
        self.logits = torch.tensor(probabilities).log()
        self.config = Config(d_vocab=len(probabilities), n_ctx=9, d_model=2, n_heads=1, n_layers=1)

    def forward(self, tokens, cache=None):
        return self.logits[tokens]


def randomised_table(seed, d_vocab=11):
    scale = 2.0 * torch.randn(d_vocab, d_vocab, generator=seeded(seed))
    return Table(scale.softmax(dim=-1).tolist())


def test_beams_find_what_greedy_misses():
    # From 0: greedy goes to 1 (0.6) and can only reach 0.6 * 0.5; by way of 2 it is 0.4 * 1.
    model = Table(
        [[0.0, 0.6, 0.4, 0.0], [0.25, 0.25, 0.5, 0.0], [0.0, 0.0, 0.0, 1.0], [1.0, 0, 0, 0]]
    )
    start = torch.tensor([[0]])
    greedy = generate(model, start, 2, temperature=0, use_cache=False)
    assert greedy.tolist() == [[0, 1, 2]]
    found = beam_search(model, start, 2, n_beams=2, use_cache=False)
    assert found.tolist() == [[0, 2, 3]]


@pytest.mark.parametrize("penalty, best", [(0.0, [0, 3, 3, 3]), (2.0, [0, 1, 2, 3])])
def test_the_length_penalty_weighs_short_against_long(penalty, best):
    # To stop at once has 0.4; to go 1, 2, stop has 0.6 * 0.6 * 0.9 = 0.324 over three tokens.
    model = Table(
        [[0.0, 0.6, 0.0, 0.4], [0.0, 0.0, 0.6, 0.4], [0.1, 0.0, 0.0, 0.9], [1.0, 0, 0, 0]]
    )
    start = torch.tensor([[0]])
    found = beam_search(model, start, 3, 3, penalty, stop_token=3, use_cache=False)[0].tolist()
    assert found == best[: len(found)] and set(best[len(found) :]) <= {3}


# Errors


def broken(value):
    model = make_model()
    with torch.no_grad():
        model.norm.b[0] = value
    return model


M, T = make_model(), prompt(2, 3)
BAD = {
    "temperature -1": (lambda: generate(M, T, temperature=-1), "temperature of 0 or more, got -1"),
    "temperature nan": (lambda: generate(M, T, temperature=math.nan), "got nan"),
    "temperature inf": (lambda: generate(M, T, temperature=math.inf), "got inf"),
    "divide by 0": (lambda: apply_temperature(torch.zeros(1, 2), 0), "above 0 to divide by, got 0"),
    "divide by -2": (lambda: apply_temperature(torch.zeros(1, 2), -2), "got -2"),
    "top_k 0": (lambda: generate(M, T, top_k=0), "top_k to be a whole number of .* 1, got 0"),
    "top_k 2.0": (lambda: generate(M, T, top_k=2.0), "got 2.0"),
    "top_k True": (lambda: generate(M, T, top_k=True), "got True"),
    "keep 0": (lambda: keep_top_k(torch.zeros(1, 2), 0), "got 0"),
    "top_p 0": (lambda: generate(M, T, top_p=0), "top_p above 0 and at most 1, got 0"),
    "top_p 1.1": (lambda: generate(M, T, top_p=1.1), "got 1.1"),
    "top_p nan": (lambda: generate(M, T, top_p=math.nan), "got nan"),
    "share 0": (lambda: keep_top_p(torch.zeros(1, 2), 0.0), "got 0.0"),
    "max -1": (lambda: generate(M, T, -1), "max_new_tokens of 0 or more, got -1"),
    "max 1.5": (lambda: beam_search(M, T, 1.5), "max_new_tokens of 0 or more, got 1.5"),
    "stop 29": (lambda: generate(M, T, stop_token=29), "stop_token from 0 to 28, got 29"),
    "stop -1": (lambda: beam_search(M, T, stop_token=-1), "stop_token from 0 to 28, got -1"),
    "stop True": (lambda: generate(M, T, stop_token=True), "got True"),
    "float tokens": (lambda: generate(M, T.float()), r"torch.float32 of \(2, 3\)"),
    "one dimension": (lambda: generate(M, T[0]), r"\(batch, seq\), got torch.int64 of \(3,\)"),
    "a list": (lambda: beam_search(M, [[1]]), r"int64 tensor of \(batch, seq\), got list"),
    "no tokens": (lambda: generate(M, T[:, :0]), r"at least one token, got \(2, 0\)"),
    "no rows": (lambda: generate(M, T[:0]), r"at least one token, got \(0, 3\)"),
    "too long": (
        lambda: generate(M, prompt(1, 14)),
        "prompt of at most n_ctx=13 tokens, got 14",
    ),
    "unknown id": (lambda: generate(M, T + 29), "d_vocab=29"),
    "n_beams 0": (lambda: beam_search(M, T, n_beams=0), "n_beams .* at least 1, got 0"),
    "n_beams 2.0": (lambda: beam_search(M, T, n_beams=2.0), "got 2.0"),
    "penalty": (lambda: beam_search(M, T, length_penalty=math.nan), "length_penalty .* got nan"),
    "nan, drawn": (lambda: generate(broken(math.nan), T), "logits that are numbers, got NaN"),
    "nan, greedy": (lambda: generate(broken(math.nan), T, temperature=0), "got NaN or infinity"),
    "inf": (lambda: generate(broken(math.inf), T), "logits that are numbers"),
    "nan, beams": (lambda: beam_search(broken(math.nan), T), "logits that are numbers"),
    "no room": (
        lambda: LayerCache(4).append(torch.zeros(1, 2, 5, 3), torch.zeros(1, 2, 5, 3)),
        "at most n_ctx=4 positions, got 5 after 0 cached",
    ),
    "k and v": (
        lambda: LayerCache(4).append(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 4, 3)),
        r"got \(1, 2, 3, 3\) and \(1, 2, 4, 3\)",
    ),
    "three dimensions": (
        lambda: LayerCache(4).append(torch.zeros(2, 3, 3), torch.zeros(2, 3, 3)),
        r"\(batch, n_heads, seq, width\), got \(2, 3, 3\)",
    ),
    "k without v's width": (
        lambda: LayerCache(4).append(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3)),
        r"got \(1, 2, 3, 3\) and \(1, 2, 3\)",
    ),
    "v without k's width": (
        lambda: LayerCache(4).append(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3, 3)),
        r"got \(1, 2, 3\) and \(1, 2, 3, 3\)",
    ),
    "nothing is possible after one of two": (
        lambda: generate(
            Table([[0.5, 0.5], [0.0, 0.0]]), torch.tensor([[0], [1]]), use_cache=False
        ),
        "^expected logits that are numbers, got NaN or infinity from the model$",
    ),
    "temperature hot": (lambda: generate(M, T, temperature="hot"), "0 or more, got 'hot'"),
    "temperature True": (lambda: generate(M, T, temperature=True), "0 or more, got True"),
    "top_p half": (lambda: generate(M, T, top_p="half"), "at most 1, got 'half'"),
    "penalty none": (lambda: beam_search(M, T, length_penalty=None), "got None"),
    "another batch": (lambda: M(prompt(5, 1), filled()), r"as cached \(2, 3, 13, 4\), got \(5, 3"),
    "full": (lambda: M(prompt(2, 11), filled()), "n_ctx=13 positions, got 11 after 3 cached"),
    "rows": (lambda: filled().reorder(torch.tensor([0])), "got 1 and a batch of 2"),
    "rows of nothing": (
        lambda: KeyValueCache(CONFIG).reorder(torch.tensor([0])),
        "got 1 and an empty cache",
    ),
}


def filled():
    cache = KeyValueCache(CONFIG)
    M(T, cache)
    return cache


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message), torch.no_grad():
        call()


@pytest.mark.parametrize("cut", ["temperature", "top_k", "top_p"])
def test_stream_refuses_before_its_first_token(cut):
    with pytest.raises(ValueError, match=cut):
        stream(M, T, **{cut: -1})


def test_the_longest_prompt_and_the_smallest_numbers_are_allowed():
    assert generate(M, prompt(1, 13), 1, top_k=1, top_p=1, stop_token=0).shape == (1, 14)
    assert beam_search(M, prompt(1, 13), 1, 1, stop_token=28).shape == (1, 14)
    check_prompt(M, prompt(1, 1), 0)


def test_a_token_that_cannot_be_is_no_error():
    # -inf for some is a statement; -inf for all is none.
    assert pick(torch.tensor([[-math.inf, 0.0]])).item() == 1

    class Impossible(Script):
        def forward(self, tokens, cache=None):
            return torch.full((*tokens.shape, CONFIG.d_vocab), -math.inf)

    with pytest.raises(ValueError, match="logits that are numbers"):
        Context(Impossible([[0]]), use_cache=False).next_logits(T)
