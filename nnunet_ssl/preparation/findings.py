"""What a check of a dataset tells: findings, and notes on what changes no training."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing found: its kind, the cases with the role of each, the score of near-duplicates, why and what to do."""

    kind: str
    cases: list[str]
    roles: list[str]
    reason: str
    advice: str
    score: float | None = None
