"""Recurrence: one position after another, the past squeezed into a state of fixed size.

A cell has `project`, which sees all positions at once, and `step`, which needs the state that
the step before left behind; that wait is what attention does away with.
Built in chapters/01-time.
"""

import math

import torch
from torch import nn

from decoder.checks import check_ids, check_sizes, check_tokens


class RNNCell(nn.Module):
    """h = tanh(x W_x + b + h_before W_h).

    Args:
        d_in: Width of the inputs.
        d_hidden: Width of the state.

    The state is the tuple (h,), with h (batch, d_hidden).

    Raises:
        ValueError: a size is not positive.

    Source: Elman 1990; equal to `torch.nn.RNN`, whose two biases add up to b.
    """

    n_states = 1

    def __init__(self, d_in, d_hidden):
        super().__init__()
        check_sizes(d_in=d_in, d_hidden=d_hidden)
        self.d_in, self.d_hidden = d_in, d_hidden
        self.W_x = nn.Parameter(_between(d_hidden, d_in, d_hidden))
        self.W_h = nn.Parameter(_between(d_hidden, d_hidden, d_hidden))
        self.b = nn.Parameter(torch.zeros(d_hidden))

    def project(self, x):
        """What the inputs add: (..., d_in) -> (..., d_hidden). No step has to wait for it."""
        return x @ self.W_x + self.b

    def step(self, projected, state):
        """Projected inputs of one position, (batch, d_hidden), and a state -> the next state."""
        (h,) = state
        return (torch.tanh(projected + h @ self.W_h),)


class LSTMCell(nn.Module):
    """Four gates around a memory c that is added to rather than overwritten.

    c = sigmoid(f) * c_before + sigmoid(i) * tanh(g), and h = sigmoid(o) * tanh(c), where each of
    i, f, g, o has its share of x W_x + h_before W_h (in this order) and its own bias.

    Args:
        d_in: Width of the inputs.
        d_hidden: Width of h and of c.

    The state is the tuple (h, c), each (batch, d_hidden). All biases start at 0. The forget
    gate's is `b_f`: with large values the memory lasts (`nn.init.constant_(cell.b_f, 3.0)`).

    Raises:
        ValueError: a size is not positive.

    Source: Hochreiter and Schmidhuber 1997; the forget gate is from Gers et al. 2000, its bias
    from Jozefowicz et al. 2015. Equal to `torch.nn.LSTM`.
    """

    n_states = 2

    def __init__(self, d_in, d_hidden):
        super().__init__()
        check_sizes(d_in=d_in, d_hidden=d_hidden)
        self.d_in, self.d_hidden = d_in, d_hidden
        self.W_x = nn.Parameter(_between(d_hidden, d_in, 4 * d_hidden))
        self.W_h = nn.Parameter(_between(d_hidden, d_hidden, 4 * d_hidden))
        self.b_i = nn.Parameter(torch.zeros(d_hidden))
        self.b_f = nn.Parameter(torch.zeros(d_hidden))
        self.b_g = nn.Parameter(torch.zeros(d_hidden))
        self.b_o = nn.Parameter(torch.zeros(d_hidden))

    def project(self, x):
        """What the inputs add: (..., d_in) -> (..., 4 * d_hidden). No step has to wait for it."""
        return x @ self.W_x + torch.cat([self.b_i, self.b_f, self.b_g, self.b_o])

    def step(self, projected, state):
        """Projected inputs of one position, (batch, 4 * d_hidden), and a state -> the next."""
        h, c = state
        i, f, g, o = (projected + h @ self.W_h).chunk(4, dim=-1)  # (batch, d_hidden) each
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


def unroll(cell, x, state=None):
    """Run a cell over a sequence, a position at a time.

    Args:
        cell: An `RNNCell`, an `LSTMCell`, or anything with their methods.
        x: Inputs, (batch, seq, d_in).
        state: Where to start, as the cell's `step` returns it; zeros if None.

    Returns:
        outputs, (batch, seq, d_hidden): h at every position, and the last state. A second
        layer is `unroll(second_cell, outputs)`.

    Raises:
        ValueError: x is not (batch, seq, d_in) with at least one position, or the state
            does not fit.
    """
    if x.ndim != 3 or x.shape[-1] != cell.d_in or x.shape[1] == 0:
        raise ValueError(f"expected x of (batch, seq, {cell.d_in}), got {tuple(x.shape)}")
    shape = (x.shape[0], cell.d_hidden)
    if state is None:
        state = tuple(x.new_zeros(shape) for _ in range(cell.n_states))
    if len(state) != cell.n_states or any(part.shape != shape for part in state):
        raise ValueError(
            f"expected a state of {cell.n_states} tensors of {shape}, "
            f"got {[tuple(part.shape) for part in state]}"
        )
    outputs = []
    for projected in cell.project(x).unbind(dim=1):  # seq times (batch, ...)
        state = cell.step(projected, state)
        outputs.append(state[0])
    return torch.stack(outputs, dim=1), state  # (batch, seq, d_hidden)


class RecurrentLM(nn.Module):
    """A language model around one recurrent cell: embed, unroll, unembed.

    Called as a `Decoder` is, so that the same loop trains both. It knows no n_ctx: a sequence
    may be of any length, and takes as many steps.

    Args:
        cell: An `RNNCell` or an `LSTMCell`; its d_in is the width of the embedding.
        d_vocab: Tokens in the vocabulary.

    Raises:
        ValueError: d_vocab is not positive; from `forward`, tokens that are no (batch, seq)
            int64 tensor, or an id outside the vocabulary.

    Source: Mikolov et al. 2010, section 2, with a learned embedding.
    """

    def __init__(self, cell, d_vocab):
        super().__init__()
        check_sizes(d_vocab=d_vocab)
        self.d_vocab = d_vocab
        self.W_E = nn.Parameter(torch.randn(d_vocab, cell.d_in))
        self.cell = cell
        self.W_U = nn.Parameter(_between(cell.d_hidden, cell.d_hidden, d_vocab))
        self.b_U = nn.Parameter(torch.zeros(d_vocab))

    def forward(self, tokens):
        """Predict the token after each position: (batch, seq) -> logits (batch, seq, d_vocab)."""
        check_tokens(tokens)
        check_ids(tokens, self.d_vocab)
        outputs, _ = unroll(self.cell, self.W_E[tokens])  # (batch, seq, d_hidden)
        return outputs @ self.W_U + self.b_U


def memory_horizon(layer, x):
    """How strongly the last output still depends on each earlier input.

    It probes what carries information between positions and nothing else, so it takes vectors,
    not tokens: for a cell, `lambda x: unroll(cell, x)[0]`; for attention, a
    `MultiHeadAttention` or a `Block` itself; for a `Decoder`, its blocks one after another, on
    the residual stream that enters the first.

    Args:
        layer: Any function (1, seq, d_in) -> (1, seq, d_out).
        x: Inputs, (seq, d_in).

    Returns:
        (seq,): the Frobenius norm of the Jacobian of the last output with respect to the input
        0, 1, 2, ... positions back. 1 is what a copy of one number would give.

    Raises:
        ValueError: x is not (seq, d_in).

    Source: Pascanu et al. 2013, section 2.1: for a recurrent cell it is a product of as many
    Jacobians as there are steps in between, and shrinks or grows exponentially.
    """
    if x.ndim != 2 or x.shape[0] == 0:
        raise ValueError(f"expected x of (seq, d_in), got {tuple(x.shape)}")
    x = x.detach().unsqueeze(0).requires_grad_()
    last = layer(x)[0, -1]  # (d_out,)
    (jacobian,) = torch.autograd.grad(
        last, x, torch.eye(len(last), dtype=last.dtype, device=last.device), is_grads_batched=True
    )  # (d_out, 1, seq, d_in)
    return jacobian.square().sum(dim=(0, 1, 3)).sqrt().flip(0)


def _between(fan, *shape):
    # Uniform in +-1/sqrt(fan), as torch starts its recurrent layers.
    return (2 * torch.rand(*shape) - 1) / math.sqrt(fan)
