"""The dense layers, against torch's own pieces."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from pieces import randomise
from torch.testing import assert_close

from decoder.mlp import GELU, MLP


def random_mlp(d_model=7, d_mlp=13, seed=0):
    return randomise(MLP(d_model, d_mlp).double(), seed=seed)


@pytest.mark.parametrize("dtype, near", [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_gelu_equals_torch(dtype, near):
    x = torch.cat([torch.linspace(-9, 9, 1801), torch.tensor([0.0, -0.0, 1e4, -1e4, 1e-30])])
    x = x.to(dtype).requires_grad_()
    ours, theirs = GELU()(x), F.gelu(x, approximate="tanh")
    assert_close(ours, theirs, rtol=near, atol=near)
    (ours_grad,) = torch.autograd.grad(ours.sum(), x)
    (theirs_grad,) = torch.autograd.grad(theirs.sum(), x)
    assert_close(ours_grad, theirs_grad, rtol=2 * near, atol=2 * near)


def test_gelu_is_the_approximation_not_the_exact_one():
    x = torch.linspace(-3, 3, 101, dtype=torch.float64)
    assert (GELU()(x) - F.gelu(x)).abs().max() > 1e-4


def test_mlp_equals_two_linear_layers():
    torch.manual_seed(0)
    mlp, x = random_mlp(), torch.randn(2, 5, 7, dtype=torch.float64)
    neurons = F.gelu(F.linear(x, mlp.W_in.T, mlp.b_in), approximate="tanh")
    assert_close(mlp(x), F.linear(neurons, mlp.W_out.T, mlp.b_out), rtol=1e-12, atol=1e-12)


def test_every_weight_gets_its_gradient():
    torch.manual_seed(1)
    mlp, x = random_mlp(3, 5), torch.randn(2, 3, dtype=torch.float64)
    names, weights = zip(*mlp.named_parameters(), strict=True)
    assert set(names) == {"W_in", "b_in", "W_out", "b_out"}

    def run(x, *weights):
        return torch.func.functional_call(mlp, dict(zip(names, weights, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x.requires_grad_(), *weights))


def test_starts_with_small_weights_and_no_biases():
    torch.manual_seed(2)
    mlp = MLP(97, 389)
    assert (mlp.W_in.shape, mlp.W_out.shape) == ((97, 389), (389, 97))
    for W in (mlp.W_in, mlp.W_out):
        assert W.std().item() == pytest.approx(0.02, rel=0.02)
        assert abs(W.mean().item()) < 5e-4
    assert not mlp.b_in.any() and not mlp.b_out.any()


@given(st.lists(st.integers(1, 4), min_size=0, max_size=3), st.integers(0, 10**6))
def test_each_position_is_on_its_own(lead, seed):
    torch.manual_seed(seed)
    mlp, x = random_mlp(3, 5, seed), torch.randn(*lead, 3, dtype=torch.float64)
    out = mlp(x)
    assert out.shape == x.shape
    one_by_one = torch.stack([mlp(vector) for vector in x.reshape(-1, 3)]).reshape(x.shape)
    assert_close(out, one_by_one, rtol=1e-12, atol=1e-12)


def test_changing_one_position_changes_only_that_one():
    torch.manual_seed(3)
    mlp, x = random_mlp(), torch.randn(1, 5, 7, dtype=torch.float64)
    changed = x.clone()
    changed[:, 3] += torch.randn(7)
    differs = (mlp(changed) != mlp(x)).any(dim=-1)[0]
    assert differs.tolist() == [False, False, False, True, False]


def test_another_activation_can_stand_in():
    mlp, x = random_mlp(), torch.randn(5, 7, dtype=torch.float64)
    mlp.activation = torch.nn.ReLU()
    assert_close(mlp(x), (x @ mlp.W_in + mlp.b_in).relu() @ mlp.W_out + mlp.b_out)


def test_hooks_read_the_neurons():
    mlp, x, seen = random_mlp(), torch.randn(2, 5, 7, dtype=torch.float64), []
    mlp.activation.register_forward_hook(lambda module, args, out: seen.append(out))
    out = mlp(x)
    assert seen[0].shape == (2, 5, 13)
    assert_close(seen[0] @ mlp.W_out + mlp.b_out, out)


def test_names_the_width_that_does_not_fit():
    with pytest.raises(ValueError, match=r"expected x of \(\.\.\., 7\), got \(2, 5, 13\)"):
        MLP(7, 13)(torch.zeros(2, 5, 13))
