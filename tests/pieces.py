"""Small things that several tests need."""

import torch
from torch import nn


def randomise(module, std=0.4, seed=0):
    """Every weight random and large, biases and norms too, so that each one matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float64) * std
            # The scale of a norm stays around 1.
            p.copy_(noise + 1 if "norm" in name and name.endswith("w") else noise)
    return module


class LayerCache:
    """The least that a cache must do for one layer: keep what is appended."""

    length, k, v = 0, None, None

    def append(self, k, v):
        if self.k is not None:
            k, v = torch.cat([self.k, k], dim=2), torch.cat([self.v, v], dim=2)
        self.k, self.v, self.length = k, v, k.shape[2]
        return k, v


class Cache(list):
    """One `LayerCache` a layer."""

    def __init__(self, n_layers):
        super().__init__(LayerCache() for _ in range(n_layers))

    @property
    def length(self):
        return self[0].length


def count(module):
    """Parameters, each tensor once."""
    return sum(p.numel() for p in module.parameters())


def torch_heads(attn):
    """`torch.nn.MultiheadAttention` with the weights of ours; it keeps them transposed."""
    theirs = nn.MultiheadAttention(
        attn.d_model, attn.n_heads, batch_first=True, dtype=attn.W_Q.dtype
    )
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([attn.W_Q, attn.W_K, attn.W_V], dim=1).T)
        theirs.in_proj_bias.copy_(torch.cat([attn.b_Q, attn.b_K, attn.b_V]))
        theirs.out_proj.weight.copy_(attn.W_O.T)
        theirs.out_proj.bias.copy_(attn.b_O)
    return theirs


def torch_heads_gradients(theirs):
    """The gradients of `torch_heads`, under our names and in our layout."""
    W, b = theirs.in_proj_weight.grad.T.chunk(3, dim=1), theirs.in_proj_bias.grad.chunk(3)
    grads = {f"W_{kind}": w for kind, w in zip("QKV", W, strict=True)}
    grads |= {f"b_{kind}": w for kind, w in zip("QKV", b, strict=True)}
    return grads | {"W_O": theirs.out_proj.weight.grad.T, "b_O": theirs.out_proj.bias.grad}


def assert_near(ours, theirs, near):
    """Equal up to `near`, in units of 1 or of the largest entry, whichever is larger."""
    largest = max(1.0, theirs.detach().abs().max().item())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=near * largest)
