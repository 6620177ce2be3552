"""Toy tasks whose best possible loss is known.

Each makes random sequences by a rule, and states the lowest loss that any model can reach:
the entropy of a sequence given its first token, divided by the number of predictions. By the
chain rule that is also the sum of what is left to guess at each position, so each `floor` only
has to count the random choices that a sequence shows, in nats. All next-token predictions count.
Built in chapters/10-reversal; chapters 01, 03 and 13 use the others.
"""

from decoder.tasks.base import Task
from decoder.tasks.repetition import Copy, Repeated, Reversal
from decoder.tasks.retrieval import NoisyRetrieval, Retrieval

__all__ = ["Copy", "NoisyRetrieval", "Repeated", "Retrieval", "Reversal", "Task"]
