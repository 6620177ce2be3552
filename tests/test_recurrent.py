"""RNN and LSTM against torch's own, and the language model around them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decoder.attention import MultiHeadAttention
from decoder.recurrent import LSTMCell, RecurrentLM, RNNCell, memory_horizon, unroll

BATCH, SEQ, D_IN, D_HIDDEN, D_VOCAB = 2, 7, 3, 5, 11
CELLS = {"rnn": (RNNCell, torch.nn.RNN), "lstm": (LSTMCell, torch.nn.LSTM)}


def bias_of(cell):
    if isinstance(cell, RNNCell):
        return cell.b
    return torch.cat([cell.b_i, cell.b_f, cell.b_g, cell.b_o])


def pair(kind, d_in=D_IN, d_hidden=D_HIDDEN, seed=0, dtype=torch.float32):
    """A cell with all weights random, and torch's layer with the same weights."""
    torch.manual_seed(seed)
    ours, theirs = CELLS[kind]
    cell, layer = ours(d_in, d_hidden).to(dtype), theirs(d_in, d_hidden, batch_first=True)
    layer = layer.to(dtype)
    with torch.no_grad():
        for weight in cell.parameters():
            weight.normal_(std=0.5)
        layer.weight_ih_l0.copy_(cell.W_x.T)
        layer.weight_hh_l0.copy_(cell.W_h.T)
        layer.bias_ih_l0.copy_(bias_of(cell))
        layer.bias_hh_l0.zero_()
    return cell, layer


def run_both(cell, layer, x, state):
    outputs, last = unroll(cell, x, state)
    if isinstance(cell, RNNCell):
        theirs, h = layer(x, None if state is None else state[0].unsqueeze(0))
        return outputs, last, theirs, (h[0],)
    given_state = None if state is None else tuple(part.unsqueeze(0) for part in state)
    theirs, (h, c) = layer(x, given_state)
    return outputs, last, theirs, (h[0], c[0])


@pytest.mark.parametrize("kind", CELLS)
@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 4),
    seq=st.integers(1, 9),
    d_in=st.integers(1, 6),
    d_hidden=st.integers(1, 6),
    seed=st.integers(0, 10**6),
    with_state=st.booleans(),
)
def test_equal_to_torch(kind, batch, seq, d_in, d_hidden, seed, with_state):
    cell, layer = pair(kind, d_in, d_hidden, seed)
    x = torch.randn(batch, seq, d_in, requires_grad=True)
    state = None
    if with_state:
        state = tuple(torch.randn(batch, d_hidden) for _ in range(cell.n_states))
    outputs, last, theirs, their_last = run_both(cell, layer, x, state)
    close = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(outputs, theirs, **close)
    for ours, other in zip(last, their_last, strict=True):
        torch.testing.assert_close(ours, other, **close)
    # One loss that both the outputs and the last states bear on.
    weight, weights = torch.randn_like(outputs), [torch.randn_like(part) for part in last]

    def loss(out, end):
        return (out * weight).sum() + sum((e * w).sum() for e, w in zip(end, weights, strict=True))

    ours = torch.autograd.grad(loss(outputs, last), [x, *cell.parameters()])
    names = [name for name, _ in cell.named_parameters()]
    got = dict(zip(["x", *names], ours, strict=True))
    biases = [got[name] for name in ("b", "b_i", "b_f", "b_g", "b_o") if name in got]
    want = torch.autograd.grad(
        loss(theirs, their_last), [x, layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0]
    )
    for ours, other in zip(
        [got["x"], got["W_x"].T, got["W_h"].T, torch.cat(biases)], want, strict=True
    ):
        torch.testing.assert_close(ours, other, **close)


@pytest.mark.parametrize("kind", CELLS)
def test_a_second_layer_is_a_second_unroll(kind):
    (first, _), (second, _) = pair(kind), pair(kind, D_HIDDEN, D_HIDDEN, seed=1)
    layers = CELLS[kind][1](D_IN, D_HIDDEN, num_layers=2, batch_first=True)
    with torch.no_grad():
        for i, cell in enumerate((first, second)):
            getattr(layers, f"weight_ih_l{i}").copy_(cell.W_x.T)
            getattr(layers, f"weight_hh_l{i}").copy_(cell.W_h.T)
            getattr(layers, f"bias_ih_l{i}").copy_(bias_of(cell))
            getattr(layers, f"bias_hh_l{i}").zero_()
    x = torch.randn(BATCH, SEQ, D_IN)
    outputs, _ = unroll(second, unroll(first, x)[0])
    torch.testing.assert_close(outputs, layers(x)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", CELLS)
def test_goes_on_from_a_state(kind):
    cell, _ = pair(kind)
    x = torch.randn(BATCH, SEQ, D_IN)
    whole, last = unroll(cell, x)
    before, state = unroll(cell, x[:, :3])
    after, state = unroll(cell, x[:, 3:], state)
    torch.testing.assert_close(torch.cat([before, after], dim=1), whole)
    for part, want in zip(state, last, strict=True):
        torch.testing.assert_close(part, want)


def test_the_forget_gates_bias_decides_how_long_c_lasts():
    cell = LSTMCell(D_IN, D_HIDDEN)
    with torch.no_grad():
        for weight in cell.parameters():
            weight.zero_()
    assert not cell.b_f.any()
    c = torch.randn(BATCH, D_HIDDEN)
    for bias in (-2.0, 0.0, 3.0):
        torch.nn.init.constant_(cell.b_f, bias)
        _, (_, kept) = unroll(cell, torch.zeros(BATCH, SEQ, D_IN), (torch.zeros_like(c), c))
        torch.testing.assert_close(kept, c * torch.sigmoid(torch.tensor(bias)) ** SEQ)


@pytest.mark.parametrize("kind", CELLS)
def test_new_cells_start_as_torchs_do(kind):
    torch.manual_seed(0)
    cell = CELLS[kind][0](50, 100)
    for weight in (cell.W_x, cell.W_h):
        assert 0.099 < weight.abs().max() <= 0.1  # 1 / sqrt(100)
        assert weight.mean().abs() < 0.002
    assert not bias_of(cell).any()


@pytest.mark.parametrize("kind", CELLS)
def test_language_model_is_torchs_layers_put_together(kind):
    cell, layer = pair(kind)
    model = RecurrentLM(cell, D_VOCAB)
    torch.nn.init.normal_(model.b_U)
    tokens = torch.randint(D_VOCAB, (BATCH, SEQ))
    embedded = torch.nn.functional.embedding(tokens, model.W_E)
    want = torch.nn.functional.linear(layer(embedded)[0], model.W_U.T, model.b_U)
    got = model(tokens)
    assert got.shape == (BATCH, SEQ, D_VOCAB)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    got.logsumexp(-1).sum().backward()
    assert all(weight.grad.abs().max() > 0 for weight in model.parameters())


@pytest.mark.parametrize("kind", CELLS)
def test_language_model_looks_at_the_past_only(kind):
    model = RecurrentLM(pair(kind)[0], D_VOCAB)
    tokens = torch.randint(D_VOCAB, (BATCH, SEQ))
    changed = tokens.clone()
    changed[:, 4] = (changed[:, 4] + 1) % D_VOCAB
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert ((before - after)[:, 4:].abs().amax(-1) > 0).all()  # and all of the past


@pytest.mark.parametrize("kind", CELLS)
def test_language_model_learns_to_predict_a_fixed_sequence(kind):
    torch.manual_seed(0)
    model = RecurrentLM(CELLS[kind][0](8, 16), D_VOCAB)
    tokens = torch.randint(D_VOCAB, (1, 13))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(model(tokens[:, :-1])[0], tokens[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


def test_memory_horizon_is_the_product_of_the_steps_jacobians():
    torch.manual_seed(0)
    cell = RNNCell(D_IN, D_HIDDEN).double()
    x = torch.randn(SEQ, D_IN, dtype=torch.float64)
    got = memory_horizon(lambda x: unroll(cell, x)[0], x)
    h = unroll(cell, x.unsqueeze(0))[0][0]  # (seq, d_hidden)
    slope = 1 - h * h
    chain = torch.eye(D_HIDDEN, dtype=torch.float64)
    for back in range(SEQ):
        at = SEQ - 1 - back
        into = chain @ torch.diag(slope[at])  # d last / d what enters the tanh there
        torch.testing.assert_close(got[back], (into @ cell.W_x.T).norm())
        chain = into @ cell.W_h.T
    assert got.shape == (SEQ,)


def test_memory_horizon_of_a_layer_that_only_shifts():
    got = memory_horizon(lambda x: x.roll(2, dims=1), torch.randn(SEQ, 1))
    assert got.tolist() == [0, 0, 1, 0, 0, 0, 0]


def test_a_larger_forget_bias_and_attention_reach_further():
    torch.manual_seed(0)
    x, reach = torch.randn(51, 17), {}
    for bias in (0.0, 1.0, 3.0):
        cell = LSTMCell(17, 19)
        torch.nn.init.constant_(cell.b_f, bias)
        reach[bias] = memory_horizon(lambda x, cell=cell: unroll(cell, x)[0], x)[50]
    rnn = RNNCell(17, 19)
    plain = memory_horizon(lambda x: unroll(rnn, x)[0], x)[50]
    assert plain < 1e-6 and reach[0.0] < 1e-6
    assert reach[0.0] < 1e-3 * reach[1.0] and reach[1.0] < 1e-2 * reach[3.0]
    attn = memory_horizon(MultiHeadAttention(17, 2, 7), x)
    assert attn[50] > 0.1 * attn[1] > 0  # 50 back is as near as 1 back


@pytest.mark.parametrize(
    "call,words",
    [
        (lambda: RNNCell(0, 3), ["d_in", "0"]),
        (lambda: LSTMCell(3, -1), ["d_hidden", "-1"]),
        (lambda: LSTMCell(True, 2), ["d_in", "True"]),
        (lambda: RecurrentLM(RNNCell(2, 3), 1.5), ["d_vocab", "1.5"]),
        (lambda: unroll(RNNCell(2, 3), torch.ones(5, 2)), ["(batch, seq, 2)", "(5, 2)"]),
        (lambda: unroll(RNNCell(2, 3), torch.ones(1, 5, 7)), ["(batch, seq, 2)", "(1, 5, 7)"]),
        (lambda: unroll(RNNCell(2, 3), torch.ones(1, 0, 2)), ["(1, 0, 2)"]),
        (
            lambda: unroll(LSTMCell(2, 3), torch.ones(5, 1, 2), (torch.ones(5, 3),)),
            ["2 tensors of (5, 3)", "[(5, 3)]"],
        ),
        (
            lambda: unroll(RNNCell(2, 3), torch.ones(5, 1, 2), (torch.ones(1, 3),)),
            ["(5, 3)", "(1, 3)"],
        ),
        (lambda: memory_horizon(lambda x: x, torch.ones(1, 2, 3)), ["(seq, d_in)", "(1, 2, 3)"]),
        (lambda: memory_horizon(lambda x: x, torch.ones(0, 3)), ["(seq, d_in)", "(0, 3)"]),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError) as error:
        call()
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    "tokens,words",
    [
        ([[1, 2]], ["list"]),
        (torch.ones(2, 3), ["float32", "(2, 3)"]),
        (torch.ones(3, dtype=torch.int64), ["(3,)"]),
        (torch.ones(2, 0, dtype=torch.int64), ["(2, 0)"]),
        (torch.tensor([[0, 1], [2, 11]]), ["11", "d_vocab=11", "row 1", "position 1"]),
        (torch.tensor([[0, 1], [-1, 2]]), ["-1", "row 1", "position 0"]),
    ],
)
def test_bad_tokens_are_named(tokens, words):
    with pytest.raises(ValueError) as error:
        RecurrentLM(RNNCell(2, 3), D_VOCAB)(tokens)
    for word in words:
        assert word in str(error.value)
