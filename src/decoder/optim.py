"""Muon: an optimiser whose steps are about equally long in every direction of a matrix."""

from collections import defaultdict

import torch
from torch.optim.adamw import adamw

# Odd polynomial a x + b x^3 + c x^5, chosen by Jordan et al. to lift small singular values fast.
A, B, C = 3.4445, -4.7750, 2.0315


def orthogonalise(matrices, steps=5):
    """Bring the singular values of each matrix near 1, and keep its singular vectors.

    A polynomial of the singular values needs no decomposition: x x^T x has the same singular
    vectors as x, and singular values cubed.

    Args:
        matrices: (..., rows, columns).
        steps: Times the polynomial is applied; after 5, what began at a hundredth of the
            matrix's norm or more lies between 0.6 and 1.3.

    Returns:
        (..., rows, columns).

    Raises:
        ValueError: matrices has fewer than two dimensions.

    Source: Jordan et al. 2024, *Muon: An optimizer for hidden layers in neural networks*.
    Built in chapters/16-modern.
    """
    if matrices.ndim < 2:
        raise ValueError(f"expected matrices, (..., rows, columns), got {tuple(matrices.shape)}")
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.flatten(0, -3) if matrices.ndim > 2 else matrices[None]  # (n, rows, columns)
    x = x.mT if tall else x  # the smaller side first: its products are cheaper
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # no singular value is above 1 now
    if steps and x.shape[-1] > 1.5 * x.shape[-2]:
        x = _in_small_products(x, steps)
    else:
        for _ in range(steps):
            x = _factor(x @ x.mT) @ x
    return (x.mT if tall else x).reshape(matrices.shape)


def _factor(gram):
    """A + B gram + C gram^2, (n, side, side): what a step multiplies x by, where gram = x x^T."""
    factor = torch.baddbmm(gram, gram, gram, beta=B, alpha=C)
    factor.diagonal(dim1=-2, dim2=-1).add_(A)
    return factor


def _in_small_products(x, steps):
    """The same steps on x x^T alone, which is smaller than x if x is wide; x comes in at the end.

    Factors and gram are polynomials of one symmetric matrix: symmetric, and in any order.
    """
    gram = x @ x.mT  # (n, side, side)
    product = factor = _factor(gram)
    for _ in range(steps - 1):
        gram = factor @ gram @ factor  # of factor @ x
        factor = _factor(gram)
        product = factor @ product
    return product @ x


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal, for the matrices of the blocks; AdamW for all the rest.

    Args:
        matrices: Weights (rows, columns) that take orthogonal steps.
        others: Weights that take AdamW's steps: embeddings, biases, scales.
        lr: Size of an orthogonal step: its singular values are near lr, times
            sqrt(rows / columns) where there are more rows than columns.
        adam_lr: AdamW's learning rate.
        momentum: Share of the earlier gradients that a step keeps; 0.95 if not given.
        weight_decay: Pull of `matrices` and of other matrices towards zero, times the rate; none
            if not given.

    Raises:
        ValueError: one of `matrices` has not two dimensions.

    Matrices of equal shape are worked on together, in one product.
    Source: Jordan et al. 2024; Nesterov's momentum as there. Built in chapters/16-modern.
    """

    def __init__(self, matrices, others, lr, adam_lr, momentum=0.95, weight_decay=0.0):
        matrices, others = list(matrices), list(others)
        for weight in matrices:
            if weight.ndim != 2:
                raise ValueError(f"expected matrices, got a weight of {tuple(weight.shape)}")
        groups = [
            {"params": matrices, "lr": lr, "orthogonal": True},
            {"params": others, "lr": adam_lr, "orthogonal": False},
        ]
        defaults = {"momentum": momentum, "betas": (0.9, 0.99), "weight_decay": weight_decay}
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure=None):
        """Change every weight that has a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            (self._orthogonal if group["orthogonal"] else self._adam)(weights, group)
        return loss

    def _orthogonal(self, weights, group):
        by_shape = defaultdict(list)
        for weight in weights:
            by_shape[weight.shape].append(weight)
        for (rows, columns), alike in by_shape.items():
            steps = orthogonalise(torch.stack(self._ahead(alike, group))).unbind()
            torch._foreach_mul_(alike, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(alike, steps, alpha=-group["lr"] * max(1, rows / columns) ** 0.5)

    def _ahead(self, weights, group):
        """Nesterov's momentum: the gradients, and where the earlier ones lead."""
        gradients = [weight.grad for weight in weights]
        momenta = [self._state(weight, "momentum") for weight in weights]
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, gradients)
        return torch._foreach_add(gradients, momenta, alpha=group["momentum"])

    def _adam(self, weights, group):
        for decay, chosen in (
            (group["weight_decay"], [weight for weight in weights if weight.ndim >= 2]),
            (0.0, [weight for weight in weights if weight.ndim < 2]),
        ):
            # The steps taken are tensors too, so that a checkpoint holds them.
            adamw(
                chosen,
                [weight.grad for weight in chosen],
                [self._state(weight, "mean") for weight in chosen],
                [self._state(weight, "square") for weight in chosen],
                [],
                [self.state[weight].setdefault("steps", torch.zeros(())) for weight in chosen],
                fused=True,
                amsgrad=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=decay,
                eps=1e-8,
                maximize=False,
            )

    def _state(self, weight, name):
        state = self.state[weight]
        if name not in state:
            state[name] = torch.zeros_like(weight)
        return state[name]


def muon(model, recipe):
    """Muon for the matrices of a decoder's blocks, AdamW at the same rate for the rest.

    Args:
        model: `Decoder`.
        recipe: `Recipe`; learning_rate and weight_decay are used.

    Returns:
        `Muon`, for the `optimizer` of `Training`.
    """
    matrices = [w for w in model.blocks.parameters() if w.ndim == 2 and w.requires_grad]
    chosen = set(map(id, matrices))
    others = [w for w in model.parameters() if id(w) not in chosen and w.requires_grad]
    rate, decay = recipe.learning_rate, recipe.weight_decay
    return Muon(matrices, others, lr=rate, adam_lr=rate, weight_decay=decay)
