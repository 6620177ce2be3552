"""The pieces that stand in for GPT-2's: each in its place, causal, cached and trainable."""

import math

import pytest
import torch
from pieces import randomise

from bookkit.checks import check_causal
from decoder import Config, Decoder
from decoder.generate import generate
from decoder.interpret import capture
from decoder.loss import cross_entropy
from decoder.modern import GatedMLP, SquaredReLU, Unembed, modernise, zero_outputs

CONFIG = Config(d_vocab=29, n_ctx=13, d_model=12, n_heads=3, n_layers=2)
TOKENS = torch.randint(29, (2, 11), generator=torch.Generator().manual_seed(0))


def modern():
    torch.manual_seed(0)
    return modernise(Decoder(CONFIG))


def test_squared_relu():
    x = torch.tensor([-2.0, -0.0, 0.5, 3.0])
    assert SquaredReLU()(x).tolist() == [0.0, 0.0, 0.25, 9.0]


def test_a_gate_says_how_much_passes():
    torch.manual_seed(0)
    mlp = randomise(GatedMLP(5, 7), seed=0)
    x = torch.randn(2, 3, 5)
    gate = x @ mlp.W_gate
    expected = (gate * torch.sigmoid(gate) * (x @ mlp.W_in)) @ mlp.W_out
    torch.testing.assert_close(mlp(x), expected)
    with torch.no_grad():
        mlp.W_gate.zero_()
    assert (mlp(x) == 0).all()
    with pytest.raises(ValueError, match=r"expected x of \(\.\.\., 5\), got \(2, 3\)"):
        mlp(torch.zeros(2, 3))


def test_at_first_every_token_is_equally_likely():
    model = modern()
    loss = cross_entropy(model(TOKENS), TOKENS)
    assert loss.item() == pytest.approx(math.log(29), rel=1e-6)


def test_an_unembedding_of_its_own_reads_the_stream_alone():
    unembed = randomise(Unembed(5, 7), seed=0)
    resid = torch.randn(2, 3, 5)
    torch.testing.assert_close(unembed(resid, torch.randn(7, 5)), resid @ unembed.W_U)
    assert unembed(resid).shape == (2, 3, 7)


def test_with_zero_outputs_the_stream_stays_what_it_was():
    model = zero_outputs(Decoder(CONFIG))
    with capture(model) as trace, torch.no_grad():
        model(TOKENS)
    assert all(torch.equal(resid, trace.resid[0]) for resid in trace.resid[1:])


def test_every_piece_is_in_its_place():
    model = modern()
    names = {type(module).__name__ for module in model.modules()}
    assert {"Rotary", "RMSNorm", "Cosine", "SquaredReLU", "Unembed"} <= names
    assert not {"Learned", "LayerNorm", "GELU", "TiedUnembed"} & names
    assert "positions.W_pos" not in dict(model.named_parameters())


def test_queries_and_keys_have_length_one():
    model = randomise(modern(), seed=0)
    with capture(model) as trace, torch.no_grad():
        model(TOKENS)
        model.blocks[0].attn.W_Q *= 100
        model.blocks[0].attn.b_Q *= 100
        with capture(model) as louder:
            model(TOKENS)
    torch.testing.assert_close(louder.pattern[0], trace.pattern[0])


def test_no_output_depends_on_a_later_token():
    check_causal(randomise(modern(), seed=0), TOKENS)


def test_with_cache_and_without_write_the_same():
    model = randomise(modern(), seed=0)
    how = dict(max_new_tokens=20, temperature=0)
    with_cache = generate(model, TOKENS[:, :5], **how)
    assert torch.equal(with_cache, generate(model, TOKENS[:, :5], use_cache=False, **how))


def test_every_weight_gets_a_gradient():
    model = randomise(modern(), seed=0)
    cross_entropy(model(TOKENS), TOKENS.flip(1)).backward()
    assert all(weight.grad.abs().max() > 0 for weight in model.parameters())
