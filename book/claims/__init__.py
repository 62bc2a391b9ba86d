"""Executable claims: each statement that the course answers, measured.

>>> from book.claims import statements
>>> statements()["second_order.2.2"].question
'why_not_newton_in_deep_learning'
"""

from book.claims.claim import DEVICES, KINDS, Claim, Verdict, load_claims
from book.claims.statements import Statement, statements
from book.claims.store import Result, read_results, write_results

__all__ = [
    "DEVICES",
    "KINDS",
    "Claim",
    "Result",
    "Statement",
    "Verdict",
    "load_claims",
    "read_results",
    "statements",
    "write_results",
]
