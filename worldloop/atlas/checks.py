"""What must hold in an atlas: a list of problems, empty when it is sound.

The rules themselves lie in `rules/`, one module for each kind of table.
"""

from pathlib import Path

from worldloop.atlas.atlas import Atlas
from worldloop.atlas.csv_tables import DATA
from worldloop.atlas.rules import cities, decorum, institutions, names, signs, tables
from worldloop.atlas.rules.registry import RULES
from worldloop.errors import MalformedRecordError

MODULES = (
    cities,
    institutions,
    decorum,
    names,
    signs,
    tables,
)  # importing them registers their rules


def atlas_problems(atlas: Atlas, folder: Path = DATA) -> list[str]:
    """Every problem of an atlas: which row it is, what is wrong, and in brackets the rule.

    Args:
        atlas: What is judged.
        folder: Where its tables lie, for the rules about files.
    """
    return [
        f"{sentence} [{name}]" for name, judge in RULES.items() for sentence in judge(atlas, folder)
    ]


def require_sound(atlas: Atlas, folder: Path = DATA) -> None:
    """Refuse an atlas that has problems.

    Raises:
        MalformedRecordError: If a rule is broken; the message names row and rule of the first.
    """
    problems = atlas_problems(atlas, folder)
    if problems:
        raise MalformedRecordError(
            "atlas",
            problems[0],
            "tables that keep every rule",
            f"Correct them; `worldloop atlas check` lists all {len(problems)}.",
        )
