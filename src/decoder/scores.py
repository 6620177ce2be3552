"""Other ways to turn queries and keys into scores.

Each is called as `score(q, k)`, takes q (..., seq_q, d_head) and k (..., seq_k, d_head), and
returns scores (..., seq_q, seq_k): what `attention` adds a bias to, masks, and puts through the
softmax. `attn.attend = Attend(score=...)` puts any of them in place of another. What has
something to learn is a module; its weights are shared by all heads, because each head's own W_Q
and W_K already make the heads differ, and are sized by d_head alone. "Cost" counts
multiply-adds for one pair of a query and a key.

Built in chapters/03-scores.
"""

import math

import torch
from torch import nn

from decoder.attention import scaled_dot_product
from decoder.linear_attention import LinearState, linear_kernel, linear_recurrent, linear_step

__all__ = [
    "Additive", "Bilinear", "Cosine", "LinearState",
    "dot_product", "every_score", "linear_kernel", "linear_recurrent", "linear_step",
    "negative_squared_distance", "scaled_dot_product", "shared", "uniform",
]  # fmt: skip


def dot_product(q, k):
    """Their dot product, unscaled: its spread grows with the root of d_head. Cost: d_head.

    Source: Luong et al. 2015, section 3.1, "dot".
    """
    return q @ k.transpose(-2, -1)  # (..., seq_q, seq_k)


def negative_squared_distance(q, k):
    """-|q - k|^2 / 2: near keys score high. Cost: d_head.

    Multiplied out it is q.k - |k|^2/2 - |q|^2/2, and the last term, the same for all keys of a
    query, does not survive the softmax: a dot product that is biased against long keys.

    Source: Tsai et al. 2019, section 3.2, the radial basis kernel of width 1, of which this
    is the logarithm.
    """
    half_q = 0.5 * (q * q).sum(dim=-1).unsqueeze(-1)  # (..., seq_q, 1)
    half_k = 0.5 * (k * k).sum(dim=-1).unsqueeze(-2)  # (..., 1, seq_k)
    return dot_product(q, k) - half_k - half_q


def shared(q, k):
    """Keys scored against keys, scaled: what attention is when W_Q and W_K are one. Cost: d_head.

    The queries are taken to be those of the last seq_q positions of k, as in causal
    self-attention with or without a cache; q tells only how many there are, and W_Q learns
    nothing. `attn.W_Q, attn.b_Q = attn.W_K, attn.b_K` gives the same numbers with fewer weights.
    Scores are symmetric, and a position tends to match itself best.

    Raises:
        ValueError: there are more queries than keys.

    Source: Kitaev et al. 2020, section 2, "shared-QK"; there keys also have length 1 and a
    position looks at itself only if there is nothing else.
    """
    seq_q, seq_k = q.shape[-2], k.shape[-2]
    if seq_q > seq_k:
        raise ValueError(f"expected seq_q <= seq_k, got seq_q={seq_q}, seq_k={seq_k}")
    return scaled_dot_product(k[..., seq_k - seq_q :, :], k)


def uniform(q, k):
    """All scores 0, so that every query averages what it may see. Cost: 0; no gradient.

    What is left of attention when nothing is compared.
    """
    leading = torch.broadcast_shapes(q.shape[:-2], k.shape[:-2])
    return q.new_zeros(*leading, q.shape[-2], k.shape[-2])


class Additive(nn.Module):
    """v . tanh(q W + k U): a small network looks at each pair. Cost: d_head, and d_head tanh.

    The slowest of all, and the largest: (..., seq_q, seq_k, d_head) numbers exist at once.

    Args:
        d_head: Width of queries and keys, and of the hidden layer.

    Raises:
        ValueError: from `forward`, q or k is not d_head wide.

    Source: Bahdanau et al. 2015, appendix A.1.2 (their W_a, U_a, v_a).
    """

    def __init__(self, d_head):
        super().__init__()
        self.W = nn.Parameter(torch.randn(d_head, d_head) / math.sqrt(d_head))
        self.U = nn.Parameter(torch.randn(d_head, d_head) / math.sqrt(d_head))
        self.v = nn.Parameter(torch.randn(d_head) / math.sqrt(d_head))

    def forward(self, q, k):
        """(..., seq_q, d_head), (..., seq_k, d_head) -> (..., seq_q, seq_k)."""
        _check_width(q, k, self.v.shape[0])
        hidden = (q @ self.W).unsqueeze(-2) + (k @ self.U).unsqueeze(-3)
        return torch.tanh(hidden) @ self.v  # (..., seq_q, seq_k, d_head) -> (..., seq_q, seq_k)


class Bilinear(nn.Module):
    """q W k: a learned matrix in between. Cost: d_head, and d_head^2 for a query.

    A head that has W_Q and W_K gains nothing: W_Q W W_K^T is again a product of two matrices.

    Args:
        d_head: Width of queries and keys.

    Raises:
        ValueError: from `forward`, q or k is not d_head wide.

    Source: Luong et al. 2015, section 3.1, "general".
    """

    def __init__(self, d_head):
        super().__init__()
        # q and k of unit variance get scores of unit variance, as in the scaled dot product.
        self.W = nn.Parameter(torch.randn(d_head, d_head) / d_head)

    def forward(self, q, k):
        """(..., seq_q, d_head), (..., seq_k, d_head) -> (..., seq_q, seq_k)."""
        _check_width(q, k, self.W.shape[0])
        return dot_product(q @ self.W, k)


class Cosine(nn.Module):
    """The cosine of the angle between them, over a learned temperature. Cost: d_head.

    Cosines lie in [-1, 1], so that at temperature 1 no key can get more than e^2 times the
    weight of another, however long the sequence. The logarithm is what is learned, so that the
    temperature stays positive.

    Args:
        temperature: The first temperature, above 0.

    Raises:
        ValueError: the temperature is not above 0.

    Source: Henry et al. 2020, whose g is 1 / temperature; Liu et al. 2022 (Swin v2),
    eq. 2, for the first value. A vector of zeros has cosine 0 with all others.
    """

    def __init__(self, temperature=0.1):
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f"expected a temperature above 0, got {temperature!r}")
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))

    def forward(self, q, k):
        """(..., seq_q, d_head), (..., seq_k, d_head) -> (..., seq_q, seq_k)."""
        return dot_product(_unit(q), _unit(k)) / self.log_temperature.exp()


def every_score(d_head):
    """Name and a fresh instance of every score, for heads of width d_head."""
    return {
        "scaled dot product": scaled_dot_product,
        "dot product": dot_product,
        "additive": Additive(d_head),
        "bilinear": Bilinear(d_head),
        "cosine": Cosine(),
        "distance": negative_squared_distance,
        "linear kernel": linear_kernel,
        "shared": shared,
        "uniform": uniform,
    }


def _unit(x):
    # The 1e-12 keeps a vector of zeros, and its gradient, finite.
    return x * torch.rsqrt((x * x).sum(dim=-1, keepdim=True) + 1e-12)


def _check_width(q, k, d_head):
    if q.shape[-1] != d_head or k.shape[-1] != d_head:
        raise ValueError(
            f"expected q and k of (..., {d_head}), got {tuple(q.shape)} and {tuple(k.shape)}"
        )
