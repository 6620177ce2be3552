"""A decoder-only language model, from scratch, in the order in which the book builds it."""

from decoder.config import Config
from decoder.model import Decoder

__all__ = ["Config", "Decoder"]
