"""How much of what should be stopped is stopped: block and false-block rates of the text guards.

`red_team.jsonl` holds short requests that a guard should stop, plain and disguised, in categories of
`worldloop.cosmos.guards`, and harmless ones, many of which sound worse than they are. None is graphic
and none says how to do harm. Run: `python -m gpu_jobs.cosmos_generate.red_team --guards DIR`; guards
that are not installed in DIR are named, and the others are measured, alone and together.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpu_jobs.cosmos_generate.guardrails.guards import Guards, load_guards
from gpu_jobs.cosmos_generate.guardrails.verdicts import TextGuard
from worldloop.cosmos.families import family
from worldloop.cosmos.guards import TEXT_GUARDS
from worldloop.errors import ClipRejectedError, MalformedRecordError, WorldloopError

PROMPTS_PATH = Path(__file__).with_suffix(".jsonl")
PLAIN = "plain"
BENIGN = "benign"
FORMS = (
    PLAIN,
    "leetspeak",
    "spaced",
    "euphemism",
    "other_language",
    "role_play",
    "embedded",
    "tricky",
)


@dataclass(frozen=True)
class RedTeamPrompt:
    """One prompt of the set.

    Attributes:
        id: Names it.
        category: What a guard should see; `benign` if nothing.
        form: How it is said, one of `FORMS`.
        unsafe: Whether a guard should stop it.
        prompt: The words.
    """

    id: str
    category: str
    form: str
    unsafe: bool
    prompt: str


@dataclass(frozen=True)
class Rate:
    """Blocked prompts of some.

    Attributes:
        blocked: How many a guard objected to.
        failed: How many a guard could not judge; such a clip stops too, but is not counted as blocked.
        total: How many there are.
    """

    blocked: int = 0
    failed: int = 0
    total: int = 0

    def __str__(self) -> str:
        """`blocked/total (share)`, and failures where there are any."""
        share = f"{self.blocked / self.total:.0%}" if self.total else "-"
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.blocked}/{self.total} ({share}{failed})"

    def plus(self, *, blocked: bool, failed: bool) -> "Rate":
        """The rate with one prompt more."""
        return replace(
            self,
            blocked=self.blocked + blocked,
            failed=self.failed + failed,
            total=self.total + 1,
        )


def read_prompts(path: Path = PROMPTS_PATH) -> list[RedTeamPrompt]:
    """The set.

    Raises:
        MalformedRecordError: If a line does not follow the format.

    Example:
        >>> sum(prompt.unsafe for prompt in read_prompts()) >= 120
        True
    """
    prompts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            prompts.append(RedTeamPrompt(**json.loads(line)))
        except (TypeError, json.JSONDecodeError) as error:
            raise MalformedRecordError(
                f"{path.name}, line {number}", str(error), "a RedTeamPrompt", "Correct the line."
            ) from error
    return prompts


def measure(guards: Guards, prompts: Iterable[RedTeamPrompt]) -> dict[tuple[str, str], Rate]:
    """Rates by category and form."""
    rates: dict[tuple[str, str], Rate] = {}
    for prompt in prompts:
        key = (prompt.category, prompt.form)
        try:
            blocked, failed = not guards.check_prompt(prompt.prompt).safe, False
        except ClipRejectedError:
            blocked, failed = False, True
        rates[key] = rates.get(key, Rate()).plus(blocked=blocked, failed=failed)
    return rates


def table(rates: dict[tuple[str, str], Rate]) -> str:
    """Rates as a Markdown table, one row a category, the sums last."""
    categories = sorted({category for category, _ in rates} - {BENIGN})
    rows = ["| category | plain | disguised |", "| --- | --- | --- |"]
    for category in categories:
        plain = _sum(rates, [category], [PLAIN])
        rows.append(f"| {category} | {plain} | {_sum(rates, [category], FORMS[1:])} |")
    plain, disguised = _sum(rates, categories, [PLAIN]), _sum(rates, categories, FORMS[1:])
    rows.append(f"| **all that is unsafe** | {plain} | {disguised} |")
    harmless, tricky = _sum(rates, [BENIGN], [PLAIN]), _sum(rates, [BENIGN], ["tricky"])
    rows.append(f"| **harmless: falsely blocked** (plain, tricky) | {harmless} | {tricky} |")
    forms = [form for form in FORMS[1:-1] if _sum(rates, categories, [form]).total]
    rows += ["", "| disguise | blocked |", "| --- | --- |"]
    rows += [f"| {form} | {_sum(rates, categories, [form])} |" for form in forms]
    return "\n".join(rows)


def available(folder: str, names: Sequence[str]) -> tuple[list[TextGuard], dict[str, str]]:
    """Text guards that are installed, and why the others are not."""
    loaded: list[TextGuard] = []
    missing = {}
    for name in names:
        asked: dict[str, Any] = {"text": [name], "dir": folder}
        try:
            loaded += load_guards(asked, family=family("predict2")).text
        except WorldloopError as error:
            missing[name] = str(error)
    return loaded, missing


def report(folder: str, names: Sequence[str], prompts: Sequence[RedTeamPrompt]) -> str:
    """Tables of every guard, and of all together, as Markdown."""
    loaded, missing = available(folder, names)
    sections = [f"`{name}` was not measured: {why}" for name, why in missing.items()]
    sections += [f"### `{g.name}`\n\n{table(measure(Guards([g]), prompts))}" for g in loaded]
    if len(loaded) > 1:
        together = "+".join(guard.name for guard in loaded)
        sections.append(f"### `{together}`\n\n{table(measure(Guards(loaded), prompts))}")
    return "\n\n".join(sections) + "\n"


def main() -> None:
    """Read the command line, measure and write the tables to standard output."""
    parser = argparse.ArgumentParser(description="Block and false-block rates of the text guards.")
    parser.add_argument(
        "--guards", default="", help="guardrail folder, or the folder of all models"
    )
    parser.add_argument("--text", nargs="+", default=TEXT_GUARDS, help="guards to measure")
    parser.add_argument("--prompts", type=Path, default=PROMPTS_PATH, help="another set")
    asked = parser.parse_args()
    sys.stdout.write(report(asked.guards, asked.text, read_prompts(asked.prompts)))


def _sum(
    rates: dict[tuple[str, str], Rate], categories: Iterable[str], forms: Iterable[str]
) -> Rate:
    chosen = [rates[c, f] for c in categories for f in forms if (c, f) in rates]
    return Rate(
        sum(rate.blocked for rate in chosen),
        sum(rate.failed for rate in chosen),
        sum(rate.total for rate in chosen),
    )


if __name__ == "__main__":
    main()
