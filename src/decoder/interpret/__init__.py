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
    head_scores,
    induction_score,
    previous_token_score,
    repeated_tokens,
)
from decoder.interpret.patching import patch, patching_grid
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
    "head_scores",
    "induction_score",
    "logit_attribution",
    "logit_lens",
    "mean_z",
    "patch",
    "patching_grid",
    "previous_token_score",
    "repeated_tokens",
]
