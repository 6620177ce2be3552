"""Muon against torch's own, and its AdamW half against torch.optim.AdamW."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pieces import randomise

from decoder import Config, Decoder
from decoder.optim import Muon, muon, orthogonalise
from decoder.tasks import Reversal
from decoder.train import Recipe, Training, fresh

CONFIG = Config(d_vocab=7, n_ctx=11, d_model=12, n_heads=3, n_layers=2)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(1, 13), st.integers(1, 13), st.integers(0, 3))
def test_singular_values_come_near_1_and_singular_vectors_stay(rows, columns, seed):
    x = drawn(rows, columns, seed=seed)
    u, values, v = torch.linalg.svd(x, full_matrices=False)
    seen = u.T @ orthogonalise(x) @ v.T  # diagonal, if the singular vectors are the same
    assert seen.shape == (min(rows, columns),) * 2
    torch.testing.assert_close(seen, torch.diag(seen.diagonal()), atol=1e-9, rtol=0)
    large = values / values.norm() > 0.01
    assert (seen.diagonal()[large] > 0.6).all() and (seen.diagonal() < 1.3).all()


@pytest.mark.parametrize("shape", [(5, 7), (5, 8), (8, 5), (5, 31), (31, 5)])
@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_each_singular_value_takes_the_polynomial(shape, steps):
    """Wide matrices are worked on through a smaller one; their singular values take the same."""
    x = drawn(*shape)
    u, values, v = torch.linalg.svd(x, full_matrices=False)
    values = values / values.norm()
    for _ in range(steps):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    torch.testing.assert_close(orthogonalise(x, steps), u * values @ v, rtol=1e-6, atol=1e-7)


def test_more_steps_bring_smaller_ones_up():
    x = torch.diag(torch.tensor([1.0, 1e-4]))
    assert orthogonalise(x, steps=5)[1, 1] < 0.2 < 0.6 < orthogonalise(x, steps=9)[1, 1]


def test_a_stack_is_worked_on_as_each_alone_and_tall_as_wide():
    x = drawn(2, 3, 5, 7)
    together = orthogonalise(x)
    for row in range(2):
        for column in range(3):
            torch.testing.assert_close(together[row, column], orthogonalise(x[row, column]))
    torch.testing.assert_close(orthogonalise(x.mT), together.mT)


def test_size_does_not_matter_and_zeros_stay_zeros():
    x = drawn(5, 7)
    torch.testing.assert_close(orthogonalise(1e3 * x), orthogonalise(x))
    assert (orthogonalise(torch.zeros(2, 3)) == 0).all()


def same_gradients(weights, others, seed):
    for number, pair in enumerate(zip(weights, others, strict=True)):
        for weight in pair:
            gradient = drawn(*weight.shape, seed=100 * seed + number)
            weight.grad = gradient.to(weight.dtype)


@pytest.mark.parametrize("shape", [(5, 7), (7, 5), (3, 3), (11, 2)])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_orthogonal_steps_are_those_of_torch(shape, decay):
    ours, theirs = (torch.nn.Parameter(drawn(*shape).float()) for _ in range(2))
    first = ours.detach().clone()
    our = Muon([ours], [], lr=0.1, adam_lr=1.0, momentum=0.9, weight_decay=decay)
    their = torch.optim.Muon([theirs], lr=0.1, momentum=0.9, weight_decay=decay)
    for seed in range(4):
        same_gradients([ours], [theirs], seed)
        our.step(), their.step()
    # Theirs computes in bfloat16, of which five steps leave two digits.
    moved = (theirs - first).norm()
    assert moved > 0.1 and (ours - theirs).norm() < 0.03 * moved


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_the_rest_takes_the_steps_of_adamw(decay):
    ours, theirs = (
        [torch.nn.Parameter(drawn(5, 7)), torch.nn.Parameter(drawn(5))] for _ in range(2)
    )
    our = Muon([], ours, lr=1.0, adam_lr=0.1, weight_decay=decay)
    groups = [{"params": theirs[:1]}, {"params": theirs[1:], "weight_decay": 0.0}]
    their = torch.optim.AdamW(groups, lr=0.1, betas=(0.9, 0.99), weight_decay=decay)
    for seed in range(4):
        same_gradients(ours, theirs, seed)
        our.step(), their.step()
    for our_weight, their_weight in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our_weight, their_weight)


def test_matrices_of_one_shape_do_not_touch_each_other():
    """Those of one shape are worked on in one stack; each moves as if it were alone."""
    shapes = [(5, 7), (7, 5), (5, 7), (3, 3)]
    together = [torch.nn.Parameter(drawn(*shape, seed=n)) for n, shape in enumerate(shapes)]
    alone = [torch.nn.Parameter(drawn(*shape, seed=n)) for n, shape in enumerate(shapes)]
    one = Muon(together, [], lr=0.1, adam_lr=1.0)
    many = [Muon([weight], [], lr=0.1, adam_lr=1.0) for weight in alone]
    for seed in range(3):
        same_gradients(together, alone, seed)
        one.step()
        for optimizer in many:
            optimizer.step()
    for left, right in zip(together, alone, strict=True):
        torch.testing.assert_close(left, right)


def test_the_defaults_are_those_that_are_documented():
    one, other = (torch.nn.Parameter(drawn(5, 7)) for _ in range(2))
    plain = Muon([one], [], lr=0.1, adam_lr=1.0)
    told = Muon([other], [], lr=0.1, adam_lr=1.0, momentum=0.95, weight_decay=0.0)
    for seed in range(3):
        same_gradients([one], [other], seed)
        plain.step(), told.step()
    assert torch.equal(one, other)


def test_what_has_no_gradient_stays():
    weights = [torch.nn.Parameter(drawn(5, 7)), torch.nn.Parameter(drawn(5))]
    before = [weight.detach().clone() for weight in weights]
    Muon(weights[:1], weights[1:], lr=0.1, adam_lr=0.1, weight_decay=0.5).step()
    assert all(map(torch.equal, weights, before))


def test_a_closure_is_asked_for_the_loss():
    weight = torch.nn.Parameter(drawn(5, 7))
    optimizer = Muon([weight], [], lr=0.1, adam_lr=0.1)

    def closure():
        loss = weight.square().sum()
        loss.backward()
        return loss

    before = weight.detach().clone()
    assert optimizer.step(closure) == before.square().sum() and not torch.equal(weight, before)


def test_the_blocks_matrices_are_orthogonal_and_each_weight_is_in_one_group():
    model = Decoder(CONFIG)
    model.blocks[0].attn.W_Q.requires_grad_(False)
    optimizer = muon(model, Recipe(steps=5, learning_rate=0.03, weight_decay=0.2))
    orthogonal, rest = optimizer.param_groups
    assert orthogonal["orthogonal"] and not rest["orthogonal"]
    assert len(orthogonal["params"]) == 2 * 6 - 1
    assert {group["lr"] for group in optimizer.param_groups} == {0.03}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.2}
    listed = [id(weight) for group in optimizer.param_groups for weight in group["params"]]
    assert sorted(listed) == sorted(id(w) for w in model.parameters() if w.requires_grad)


def trained(steps, stop=None):
    task = Reversal(4, CONFIG.d_vocab)
    model = randomise(Decoder(CONFIG), seed=1)
    batches = fresh(lambda g: task.batch(16, g), 0)
    training = Training(model, batches, Recipe(steps, learning_rate=0.01), optimizer=muon)
    losses = []
    for record in training:
        losses.append(record["train_loss"])
        if record["step"] == stop:
            kept = {name: t.clone() for name, t in training.tensors().items()}
            model = randomise(Decoder(CONFIG), seed=2)
            training = Training(model, batches, Recipe(steps, learning_rate=0.01), optimizer=muon)
            training.restore(kept, stop, 0)
            losses += [record["train_loss"] for record in training]
            break
    return losses, model


def test_it_learns_and_a_run_that_was_stopped_goes_on_to_the_same_weights():
    losses, model = trained(40)
    assert losses[-1] < losses[0] - 0.3
    again, other = trained(40, stop=17)
    assert again == losses
    assert all(map(torch.equal, model.state_dict().values(), other.state_dict().values()))


def test_bad_input():
    with pytest.raises(ValueError, match=r"\(\.\.\., rows, columns\), got \(3,\)"):
        orthogonalise(torch.zeros(3))
    with pytest.raises(ValueError, match=r"expected matrices, got a weight of \(3,\)"):
        Muon([torch.nn.Parameter(torch.zeros(3))], [], lr=1, adam_lr=1)
