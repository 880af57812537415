"""The claims as a page of Markdown, from the results of a run that was kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from normwise.lab.results import Result, Statement, Verdict, from_json
from normwise.report import wording

_VERSIONS = ("normwise", "python", "torch", "numpy", "sklearn")


def kept(folder: Path) -> list[Result]:
    """The results in a folder, one file each, by topic; none where there is no such folder.

    Raises:
        ValueError: a file is no result; the sentence names it.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(from_json(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a result of this version of the lab: run it again and keep it.") from error
    return wording.by_topic(found)


def claims(results: Sequence[Result]) -> str:
    """The page: who ran it where and when, how many statements got which verdict, and every statement by topic.

    Args:
        results: of one run or of several, in the order of the page.
    """
    counts = wording.count(results)
    parts = [
        "# Batch normalization: which claims hold?",
        "Each statement was measured over several seeds, its arms paired by seed, learning rates picked for each arm "
        "on validation images, and judged by a rule that was written down before the numbers were there. The rules, "
        "settings, references and what would refute each are on the experiments' pages; `normwise lab run` measures "
        "all of it again and draws the figures.",
        "\n".join(
            f"- **{amount}** {wording.SYMBOLS[verdict]} {verdict.value}" for verdict, amount in counts.items() if amount
        ),
        *_run(results),
        "## The experiments",
        _contents(results),
    ]
    topic = None
    for result in results:
        if result.topic != topic:
            topic = result.topic
            parts.append(f"## {topic[:1].upper()}{topic[1:]}")
        parts.append(_section(result))
    return "\n\n".join(parts) + "\n"


def _run(results: Sequence[Result]) -> list[str]:
    """Machine, versions, seeds and dates, each once where all results agree."""
    stamps = [result.stamp for result in results]
    dates = sorted({str(stamp["date"])[:10] for stamp in stamps})
    said = [f"- date: {dates[0] if len(dates) == 1 else f'{dates[0]} to {dates[-1]}'}"]
    machines = [f"{stamp['device']}, {stamp['system']}" for stamp in stamps]
    said.append(f"- machine: {_all(machines)}")
    versions = [", ".join(f"{name} {stamp[name]}" for name in _VERSIONS if stamp.get(name)) for stamp in stamps]
    said.append(f"- versions: {_all(versions)}")
    said.append(f"- seeds: {_all([f'{len(result.seeds)} ({wording.seeds(result.seeds)})' for result in results])}")
    minutes = sum(float(stamp["seconds"]) for stamp in stamps) / 60
    said.append(f"- all trials together took {minutes:.0f} minutes, on one thread each")
    return ["## The run", "\n".join(said)]


def _contents(results: Sequence[Result]) -> str:
    """A row for each experiment: its question, and how many statements got which verdict."""
    head = " | ".join(f"{wording.SYMBOLS[verdict]} {verdict.value}" for verdict in Verdict)
    rows = [f"| | {head} |", "|---|" + "--:|" * len(Verdict)]
    for result in results:
        counts = " | ".join(str(amount or "") for amount in wording.count([result]).values())
        rows.append(f"| [{wording.title(result.experiment)}](experiments/{result.experiment}.md) | {counts} |")
    return "\n".join(rows)


def _all(values: Sequence[str]) -> str:
    return "; ".join(dict.fromkeys(values))


def _section(result: Result) -> str:
    rows = ["| claim | who says it | verdict | measured [95 % interval] | published |", "|---|---|---|---|---|"]
    rows += [_row(statement, result) for statement in result.conclusion.statements]
    title = f"### [{wording.title(result.experiment)}](experiments/{result.experiment}.md)"
    return "\n\n".join((title, "\n".join(rows), f"`{result.command}`"))


def _row(statement: Statement, result: Result) -> str:
    effect = statement.effect
    cells = (
        statement.text,
        wording.who(statement, result),
        f"{wording.SYMBOLS[statement.verdict]} {statement.verdict.value}",
        f"{wording.value(effect)} [{wording.interval(effect)}]",
        statement.published,
    )
    return "| " + " | ".join(_cell(each) for each in cells) + " |"


def _cell(text: str) -> str:
    """Without what Markdown would take for a column, a tag or emphasis."""
    for letter in "\\|<>*_`":
        text = text.replace(letter, f"\\{letter}")
    return " ".join(text.split())
