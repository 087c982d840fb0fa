"""The tables of what is refused and of what cannot be graded, read for the tests and for the documentation."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

FOLDER = Path(__file__).parents[1] / "coverage"
PATH = FOLDER / "refusals.toml"


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


@dataclass(frozen=True)
class Ungraded:
    """Tests of the standard's suite that no difference can grade.

    Attributes:
        operator: As in a refusal; ``*`` for any.
        setting: ``frozen`` where the test is graded as shipped, ``both`` where it is graded in neither setting.
        says: Part of what the grader says.
        why: The reason.
    """

    operator: str
    setting: Literal["frozen", "both"]
    says: str
    why: str

    def covers(self, operator: str, setting: str, reason: str) -> bool:
        """Whether this is the entry for a test that was not graded."""
        return self.operator in (operator, "*") and self.setting in (setting, "both") and self.says in reason


def ungraded() -> list[Ungraded]:
    """All entries, in the file's order."""
    return [Ungraded(**entry) for entry in tomllib.loads((FOLDER / "ungraded.toml").read_text("utf-8"))["ungraded"]]
