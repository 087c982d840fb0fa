"""The table of tests that cannot be graded, read for the coverage test and for the documentation."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PATH = Path(__file__).parents[1] / "coverage" / "ungraded.toml"


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
    return [Ungraded(**entry) for entry in tomllib.loads(PATH.read_text("utf-8"))["ungraded"]]
