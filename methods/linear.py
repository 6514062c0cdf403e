"""Linear probing: only the head is trained, on the frozen backbone's features.

Parameters: none in the backbone; the head has C (D + 1) for C classes and D features.
"""

from .anatomy import Anatomy


def attach(anatomy: Anatomy, options: object) -> None:
    pass  # `apply` has frozen everything and trains the head of every method


def count(anatomy: Anatomy, options: object) -> int:
    return 0
