"""The sizes of a decoder, checked once."""

from dataclasses import asdict, dataclass

from decoder.checks import check_sizes


@dataclass(frozen=True)
class Config:
    """The numbers that fix every shape in a `Decoder`.

    Args:
        d_vocab: Tokens in the vocabulary.
        n_ctx: Longest sequence, in tokens.
        d_model: Width of the residual stream.
        n_heads: Attention heads in a block.
        n_layers: Blocks.
        d_head: Width of one head; d_model / n_heads unless given.
        d_mlp: Hidden width of the dense layers; 4 * d_model unless given.

    Raises:
        ValueError: a size is not a positive whole number, or d_head is not given
            and d_model is not a multiple of n_heads.

    Source: Vaswani et al. 2017, table 3 (their d_k is d_head, their h is n_heads,
    their d_ff is d_mlp). Built in chapters/09-decoder.
    """

    d_vocab: int
    n_ctx: int
    d_model: int
    n_heads: int
    n_layers: int
    d_head: int | None = None
    d_mlp: int | None = None

    def __post_init__(self):
        check_sizes(d_vocab=self.d_vocab, n_ctx=self.n_ctx, d_model=self.d_model)
        check_sizes(n_heads=self.n_heads, n_layers=self.n_layers)
        if self.d_head is None:
            if self.d_model % self.n_heads:
                raise ValueError(
                    f"expected d_model to be a multiple of n_heads, or d_head to be given; "
                    f"got d_model={self.d_model}, n_heads={self.n_heads}"
                )
            # A frozen dataclass lets nothing be assigned, its own __post_init__ included.
            object.__setattr__(self, "d_head", self.d_model // self.n_heads)
        if self.d_mlp is None:
            object.__setattr__(self, "d_mlp", 4 * self.d_model)
        check_sizes(d_head=self.d_head, d_mlp=self.d_mlp)

    def to_dict(self):
        """All seven sizes by name, ready for JSON; `Config(**sizes)` reads them back."""
        return asdict(self)
