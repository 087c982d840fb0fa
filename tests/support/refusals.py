"""The one table of what is refused, ``tests/coverage/refusals.toml``, read for the tests and for the documentation."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

PATH = Path(__file__).parents[1] / "coverage" / "refusals.toml"


@dataclass(frozen=True)
class Refusal:
    """What is refused, and why.

    Attributes:
        operator: Its name, with domain unless that is ai.onnx.
        says: Part of the message of the error.
        why: The reason, for the documentation.
        pending: Whether a rule can be written and is only missing.
        beyond_suite: Whether no test of the suite runs into it.
    """

    operator: str
    says: str
    why: str
    pending: bool = False
    beyond_suite: bool = False

    def covers(self, operator: str, message: str) -> bool:
        """Whether this is the entry for an operator's refusal."""
        return self.operator == operator and self.says in message


def refusals() -> list[Refusal]:
    """All entries, in the file's order."""
    return [Refusal(**entry) for entry in tomllib.loads(PATH.read_text("utf-8"))["refusal"]]
