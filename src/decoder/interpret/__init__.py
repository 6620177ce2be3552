"""Looking inside a decoder: what it holds, what its heads look at, what each piece says."""

from decoder.interpret.ablation import ablate_heads, mean_z
from decoder.interpret.attribution import (
    constant_logits,
    contributions,
    direct_logits,
    logit_attribution,
    logit_lens,
)
from decoder.interpret.heads import (
    duplicate_token_score,
    first_token_score,
    induction_score,
    previous_token_score,
)
from decoder.interpret.trace import Trace, capture

__all__ = [
    "Trace",
    "ablate_heads",
    "capture",
    "constant_logits",
    "contributions",
    "direct_logits",
    "duplicate_token_score",
    "first_token_score",
    "induction_score",
    "logit_attribution",
    "logit_lens",
    "mean_z",
    "previous_token_score",
]
