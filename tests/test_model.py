"""The decoder: what it must hold whatever it is trained on."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pieces import Cache, count, randomise
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close

from bookkit.checks import WRONG_MASKS, WithPattern, check_causal, leaks
from decoder import Config, Decoder
from decoder.block import Block
from decoder.model import TiedUnembed
from decoder.positions import Positions

SIZES = Config(d_vocab=17, n_ctx=13, d_model=14, n_heads=7, n_layers=3, d_head=5, d_mlp=11)
SMALL = st.integers(1, 5)


def random_decoder(config=SIZES, seed=0):
    return randomise(Decoder(config).double(), std=0.3, seed=seed)


def random_tokens(*shape, d_vocab=SIZES.d_vocab, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(d_vocab, shape, generator=generator)


# Causality.


@settings(max_examples=15, deadline=None)
@given(st.integers(3, 7), SMALL, SMALL, SMALL, st.integers(2, 9), st.integers(0, 10**6))
def test_causal(d_model, n_heads, d_head, n_layers, seq, seed):
    config = Config(11, 9, d_model, n_heads, n_layers, d_head=d_head)
    tokens = random_tokens(2, seq, d_vocab=11, seed=seed)
    tokens[:, 0] = 1  # not all 0, so that every id can be changed
    check_causal(random_decoder(config, seed), tokens)


@pytest.mark.parametrize("seed", range(3))
def test_changing_a_token_leaves_all_earlier_logits_identical(seed):
    model, tokens = random_decoder(seed=seed).float(), random_tokens(3, 13, seed=seed)
    before = model(tokens)
    for t in range(13):
        changed = tokens.clone()
        changed[:, t] = (changed[:, t] + 1 + seed) % SIZES.d_vocab
        after = model(changed)
        assert torch.equal(after[:, :t], before[:, :t])
        assert (after[:, t:] != before[:, t:]).any(dim=-1).all()  # each later one sees it


@pytest.mark.parametrize("name", WRONG_MASKS)
@pytest.mark.parametrize("layers", [[0], [2], [0, 1, 2]])
def test_every_wrong_mask_shows_in_the_logits(name, layers):
    model, tokens = random_decoder(), random_tokens(2, 11)
    for layer in layers:
        model.blocks[layer].attn.attend = WithPattern(WRONG_MASKS[name])
    assert leaks(model, tokens)


# What comes out.


def test_logits_are_what_the_pieces_say():
    model, tokens = random_decoder(), random_tokens(2, 11)
    resid = model.W_E[tokens] + model.positions.W_pos[:11]
    for block in model.blocks:
        resid = block(resid)
    expected = model.norm(resid) @ model.W_E.T
    assert expected.shape == (2, 11, 17)
    assert_close(model(tokens), expected, rtol=1e-12, atol=1e-12)


# A token's own embedding is still in the stream when it is unembedded with the same matrix, so
# that wide streams and small vocabularies start higher: with 10 tokens and width 64, by 2.2%.
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "sizes",
    [(65, 64, 128, 4, 4), (97, 23, 35, 5, 3), (13, 11, 20, 4, 2), (1009, 31, 77, 7, 6)],
    ids=str,
)
def test_initial_loss_is_that_of_knowing_nothing(sizes, seed):
    torch.manual_seed(seed)
    model = Decoder(Config(*sizes))
    d_vocab, n_ctx = sizes[:2]
    tokens = random_tokens(2000 // n_ctx, n_ctx + 1, d_vocab=d_vocab, seed=seed)
    with torch.no_grad():
        logits = model(tokens[:, :-1])
    loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()
    assert loss == pytest.approx(math.log(d_vocab), rel=0.02)
    assert logits.std() > 0.01  # not because nothing comes out


@settings(max_examples=20, deadline=None)
@given(batch=st.integers(2, 4), seq=st.integers(1, 13), seed=st.integers(0, 10**6))
def test_sequences_of_a_batch_do_not_see_each_other(batch, seq, seed):
    model, tokens = random_decoder(), random_tokens(batch, seq, seed=seed)
    logits = model(tokens)
    alone = torch.cat([model(tokens[i : i + 1]) for i in range(batch)])
    assert_close(logits, alone, rtol=1e-12, atol=1e-12)
    changed = tokens.clone()
    changed[0] = (changed[0] + 1) % SIZES.d_vocab
    assert torch.equal(model(changed)[1:], logits[1:])


def test_a_prefix_gets_the_logits_that_it_has_in_the_whole():
    model, tokens = random_decoder(), random_tokens(2, 13)
    whole = model(tokens)
    for seq in range(1, 14):
        assert_close(model(tokens[:, :seq]), whole[:, :seq], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("split", range(1, 13))
def test_goes_on_from_a_cache(split):
    model, tokens, cache = random_decoder(), random_tokens(2, 13), Cache(3)
    parts = [model(part, cache) for part in (tokens[:, :split], tokens[:, split:])]
    assert [layer.length for layer in cache] == [13] * 3
    assert_close(torch.cat(parts, dim=1), model(tokens), rtol=1e-12, atol=1e-12)


# Its weights.


def formula(config):
    """Parameters: embeddings, then a block's four projections, dense layers and two norms."""
    d, m, width = config.d_model, config.d_mlp, config.n_heads * config.d_head
    attn = 4 * d * width + 3 * width + d
    mlp = 2 * d * m + m + d
    block = attn + mlp + 2 * 2 * d
    return (config.d_vocab + config.n_ctx) * d + config.n_layers * block + 2 * d


@settings(max_examples=20, deadline=None)
@given(st.tuples(*[SMALL] * 7))
def test_parameters_are_those_of_the_formula(sizes):
    config = Config(*sizes)
    with torch.device("meta"):
        assert count(Decoder(config)) == formula(config)


@pytest.mark.parametrize(
    "d_model, n_heads, n_layers, parameters",
    [  # as `transformers` counts gpt2, gpt2-medium, -large, -xl
        (768, 12, 12, 124_439_808),
        (1024, 16, 24, 354_823_168),
        (1280, 20, 36, 774_030_080),
        (1600, 25, 48, 1_557_611_200),
    ],
)
def test_gpt2_is_counted_without_allocating_it(d_model, n_heads, n_layers, parameters):
    with torch.device("meta"):
        model = Decoder(Config(50257, 1024, d_model, n_heads, n_layers))
    assert all(p.is_meta for p in model.parameters())
    assert count(model) == parameters


def test_names_of_the_weights():
    names = [name for name, _ in Decoder(SIZES).named_parameters()]
    assert names[:2] == ["W_E", "positions.W_pos"]
    assert names[-2:] == ["norm.w", "norm.b"]
    assert len(names) == 2 + 3 * 16 + 2


def test_seed_fixes_the_weights():
    states = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        states.append(Decoder(SIZES).state_dict())
    first, again, other = states
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["W_E"], other["W_E"])


@pytest.mark.parametrize("n_layers", [1, 2, 8])
def test_weights_start_small_and_what_is_added_smaller(n_layers):
    torch.manual_seed(0)
    model = Decoder(Config(211, 199, 60, 5, n_layers))
    for name, p in model.named_parameters():
        if name.split(".")[-1].startswith("b"):
            assert not p.any(), name
        elif name.endswith("norm1.w") or name.endswith("norm2.w") or name == "norm.w":
            assert (p == 1).all(), name
        else:
            added = name.endswith(("W_O", "W_out"))
            expected = 0.02 / math.sqrt(2 * n_layers) if added else 0.02
            assert p.std().item() == pytest.approx(expected, rel=0.06), name
            assert abs(p.mean().item()) < 0.1 * expected, name


def test_unembedding_is_tied():
    model, tokens = random_decoder(), random_tokens(2, 7)
    assert not list(model.unembed.parameters())
    (weight,) = [p for p in model.parameters() if p.shape == (17, 14)]
    model(tokens).logsumexp(-1).sum().backward()
    both = weight.grad.clone()

    class OnlyOut(TiedUnembed):
        def forward(self, resid, W_E):
            return super().forward(resid.detach(), W_E)

    class OnlyIn(TiedUnembed):
        def forward(self, resid, W_E):
            return super().forward(resid, W_E.detach())

    parts = []
    for unembed in (OnlyOut(), OnlyIn()):
        weight.grad = None
        model.unembed = unembed
        model(tokens).logsumexp(-1).sum().backward()
        parts.append(weight.grad)
    assert all(part.abs().max() > 1e-3 for part in parts)
    assert_close(both, sum(parts), rtol=1e-12, atol=1e-12)


def test_every_weight_gets_a_gradient():
    model, tokens = random_decoder(), random_tokens(5, 13)
    F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
    for name, p in model.named_parameters():
        if name.endswith("b_K"):  # adds the same to all scores of a query: it changes nothing
            assert p.grad.abs().max() < 1e-12
        else:
            assert p.grad.abs().max() > 1e-6, name


def test_state_goes_through_safetensors(tmp_path):
    model, tokens = random_decoder(), random_tokens(2, 7)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    again = Decoder(Config(**model.config.to_dict())).double()
    again.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(again(tokens), model(tokens))


# Other pieces in the place of its own.


def test_dense_layers_can_be_shared():
    model = random_decoder()
    before = count(model)
    model.blocks[1].mlp = model.blocks[0].mlp
    assert count(model) == before - (2 * 14 * 11 + 11 + 14)
    model(random_tokens(2, 7)).sum().backward()
    assert model.blocks[0].mlp.W_in.grad.abs().max() > 0


def test_without_positions_the_last_logits_ignore_the_order_of_the_others():
    torch.manual_seed(0)
    one_layer = Config(17, 13, 14, 7, 1)
    model, tokens = random_decoder(one_layer), random_tokens(2, 7)
    shuffled = torch.cat([tokens[:, torch.tensor([3, 1, 5, 0, 4, 2])], tokens[:, 6:]], dim=1)
    assert (model(tokens)[:, -1] - model(shuffled)[:, -1]).abs().max() > 1e-3
    model.positions = Positions()
    assert_close(model(tokens)[:, -1], model(shuffled)[:, -1], rtol=1e-12, atol=1e-12)


def test_positions_are_handed_down_with_their_start():
    asked = []

    class Asked(Positions):
        def forward(self, resid, start=0):
            asked.append(("forward", tuple(resid.shape), start))
            return resid

        def rotate(self, x, start=0):
            asked.append(("rotate", tuple(x.shape), start))
            return x

        def bias(self, seq_q, seq_k):
            asked.append(("bias", seq_q, seq_k))

    model, tokens, cache = random_decoder(), random_tokens(2, 11), Cache(3)
    model.positions = Asked()
    model(tokens[:, :8], cache)
    asked.clear()
    model(tokens[:, 8:], cache)
    rotate = ("rotate", (2, 7, 3, 5), 8)
    assert asked == [("forward", (2, 3, 14), 8)] + [rotate, rotate, ("bias", 3, 11)] * 3


def test_unembed_and_norm_can_be_replaced():
    class Untied(nn.Module):
        def __init__(self, d_model, d_vocab):
            super().__init__()
            self.W_U = nn.Parameter(torch.randn(d_model, d_vocab, dtype=torch.float64))

        def forward(self, resid, W_E):
            return resid @ self.W_U

    model, tokens, seen = random_decoder(), random_tokens(2, 7), []
    model.norm.register_forward_hook(lambda module, args, out: seen.append((*args, out)))
    model.unembed = Untied(14, 17)
    logits = model(tokens)
    entering, leaving = seen[0]
    assert_close(logits, leaving @ model.unembed.W_U, rtol=1e-12, atol=1e-12)
    model.norm = nn.Identity()
    assert_close(model(tokens), entering @ model.unembed.W_U, rtol=1e-12, atol=1e-12)


def test_blocks_can_be_replaced():
    class Nothing(Block):
        def forward(self, resid, positions=None, cache=None):
            return resid

    model, tokens = random_decoder(), random_tokens(2, 7)
    model.blocks = nn.ModuleList(Nothing(SIZES) for _ in range(3))
    resid = model.W_E[tokens] + model.positions.W_pos[:7]
    assert_close(model(tokens), model.norm(resid) @ model.W_E.T, rtol=1e-12, atol=1e-12)


# Bad input.


def at(row, column, value):
    tokens = torch.zeros(3, 5, dtype=torch.int64)
    tokens[row, column] = value
    return tokens


@pytest.mark.parametrize(
    "tokens, message",
    [
        ([[1, 2]], "tokens as an int64 tensor of (batch, seq), got list"),
        (torch.zeros(3, 5), "int64 tensor of (batch, seq), got torch.float32 of (3, 5)"),
        (torch.zeros(3, 5).int(), "int64 tensor of (batch, seq), got torch.int32 of (3, 5)"),
        (torch.zeros(5).long(), "int64 tensor of (batch, seq), got torch.int64 of (5,)"),
        (torch.zeros(2, 3, 5).long(), "int64 tensor of (batch, seq), got torch.int64 of (2, 3, 5)"),
        (torch.zeros(3, 0).long(), "at least one token, got (3, 0)"),
        (torch.zeros(0, 5).long(), "at least one token, got (0, 5)"),
        (torch.zeros(3, 14).long(), "at most n_ctx=13 positions, got 14"),
        (at(2, 3, 17), "ids from 0 to 16 (d_vocab=17), got 17 at row 2, position 3"),
        (at(1, 4, 99), "ids from 0 to 16 (d_vocab=17), got 99 at row 1, position 4"),
        (at(0, 2, -1), "ids from 0 to 16 (d_vocab=17), got -1 at row 0, position 2"),
        (at(1, 0, -1) + at(0, 0, 40), "got -1 at row 1, position 0"),
    ],
)
def test_names_what_is_wrong(tokens, message):
    with pytest.raises(ValueError) as error:
        Decoder(SIZES)(tokens)
    assert str(error.value).startswith("expected ") and str(error.value).endswith(message)


def test_the_whole_context_and_every_id_are_allowed():
    tokens = torch.tensor([[0, 16] * 6 + [8]])
    assert tokens.shape[1] == SIZES.n_ctx
    assert random_decoder()(tokens).isfinite().all()


def test_names_what_is_too_long_with_a_cache():
    model, tokens, cache = random_decoder(), random_tokens(2, 13), Cache(3)
    model(tokens[:, :9], cache)
    message = "expected at most n_ctx=13 positions, got 5 after 9 cached"
    with pytest.raises(ValueError, match=re.escape(message)):
        model(tokens[:, :5], cache)
    assert model(tokens[:, 9:], cache).shape == (2, 4, 17)


def test_weights_of_other_sizes_are_refused():
    with pytest.raises(RuntimeError, match="W_E"):
        Decoder(SIZES).load_state_dict(Decoder(Config(19, 13, 14, 7, 3)).state_dict())
