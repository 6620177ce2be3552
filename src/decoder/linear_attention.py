"""Linear attention, twice: as a score like those of `scores.py`, and as a recurrent network.

The first compares every query with every key, the second keeps a state of fixed size; with a
causal mask they give the same. Built in chapters/03-scores.
"""

from typing import NamedTuple

import torch


def linear_kernel(q, k):
    """log(phi(q).phi(k)), phi(x) = elu(x) + 1: after the softmax, linear attention. Cost: d_head.

    The softmax takes the exponential back, so that the weights are phi(q).phi(k) over their sum.
    phi is positive but may be smaller than the smallest float, so each vector is divided by its
    largest entry before the product and multiplied by it after the logarithm. A product that is
    even then smaller than the smallest float is raised to it, and passes no gradient.

    Source: Katharopoulos et al. 2020, eq. 5 and 7. `linear_recurrent` is the same, as an RNN.
    """
    q, k = _log_phi(q), _log_phi(k)
    # The shifts cancel, so their gradients do too: detached.
    top_q = q.detach().amax(dim=-1, keepdim=True)  # (..., seq_q, 1)
    top_k = k.detach().amax(dim=-1, keepdim=True)  # (..., seq_k, 1)
    kernel = (q - top_q).exp() @ (k - top_k).exp().transpose(-2, -1)  # (..., seq_q, seq_k)
    tiny = torch.finfo(kernel.dtype).tiny
    return kernel.clamp_min(tiny).log() + top_q + top_k.transpose(-2, -1)


def _log_phi(x):
    # exp(x) below 0, x + 1 above. relu passes no gradient at 0 and clamp does: together, 1.
    return x.clamp(max=0) + torch.log1p(torch.relu(x))


class LinearState(NamedTuple):
    """All that linear attention remembers, whatever the length of the past.

    S: Sum of phi(k) v^T over past positions, (..., d_head, d_value).
    norm: Sum of phi(k), (..., d_head).
    """

    S: torch.Tensor
    norm: torch.Tensor


def linear_step(q, k, v, state=None):
    """One position of causal linear attention, by a state in place of the past.

    Args:
        q: Query of this position, (..., d_head).
        k: Its key, (..., d_head).
        v: Its value, (..., d_value).
        state: What the step before returned; None at the first.

    Returns:
        z, (..., d_value), and the next `LinearState`. Cost: 2 * d_head * d_value and
        2 * d_head a step, where a pair's cost is paid for every earlier position.

    Source: Katharopoulos et al. 2020, eq. 18 to 20. Keys of which every entry is below about
    -87 (float32) are smaller than the smallest float and count as no keys at all.
    """
    log_q = _log_phi(q)
    phi_q = (log_q - log_q.detach().amax(dim=-1, keepdim=True)).exp()  # a factor that cancels
    phi_k = _log_phi(k).exp()
    S, norm = (0.0, 0.0) if state is None else state
    S = S + phi_k.unsqueeze(-1) * v.unsqueeze(-2)  # (..., d_head, d_value)
    norm = norm + phi_k  # (..., d_head)
    weight = (phi_q * norm).sum(dim=-1, keepdim=True)  # (..., 1)
    mixed = (phi_q.unsqueeze(-2) @ S).squeeze(-2)  # (..., d_value)
    return mixed / weight.clamp_min(torch.finfo(weight.dtype).tiny), LinearState(S, norm)


def linear_recurrent(q, k, v, state=None):
    """`attention(q, k, v, causal_mask(seq, seq), score=linear_kernel)`, as an RNN.

    Args:
        q: Queries, (..., seq, d_head).
        k: Keys, (..., seq, d_head).
        v: Values, (..., seq, d_value).
        state: A `LinearState` to go on from; None at the beginning.

    Returns:
        z, (..., seq, d_value), and the `LinearState` after the last position.

    Raises:
        ValueError: q, k and v differ in seq, q and k in d_head, or there are no positions.
    """
    if q.shape[-2:] != k.shape[-2:] or k.shape[-2] != v.shape[-2] or q.shape[-2] == 0:
        raise ValueError(
            "expected q, k, v of one seq >= 1, and q, k of one d_head, "
            f"got q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
        )
    z = []
    for now in range(q.shape[-2]):
        z_now, state = linear_step(q[..., now, :], k[..., now, :], v[..., now, :], state)
        z.append(z_now)
    return torch.stack(z, dim=-2), state  # (..., seq, d_value)
