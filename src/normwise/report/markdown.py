"""The claims as a page of Markdown, from the results of the runs that were kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from normwise.lab.results import EDITION, Estimate, Result, Statement, Verdict, from_json
from normwise.lab.settling import DECIDED, FOUND, discoveries
from normwise.report import findings, wording
from normwise.report.runs import FIRST_EDITION, Line, Runs, apart, by_experiment, count, gathered, repeated

_VERSIONS = ("normwise", "python", "torch", "numpy", "sklearn")
HEADS = ("claim", "who says it", "measured on", "verdict", "first run", "second run")
"""The heads of the columns in front of those for other data."""
LAST = ("neighbouring settings", "published")
NAMED = 2
"""Sets of data that the page names in its first sentence."""
_COLUMNS = (
    "## How to read a row",
    """\
- **verdict**: what both runs and the neighbouring settings bear together.
- **first run**, **second run**: the mean over seeds, and in brackets its 95 % interval. An exact statement has the
  largest deviation of any seed instead, and in brackets the smallest and the largest.
- In the interval of a ratio, a number below 1 means the opposite: "2 times fewer steps [0.8 to 5]" reaches to 1 / 0.8
  times more.
- "Shares no value": the intervals of the two runs do not overlap, mostly because the runs picked other rates. Then the
  direction is what both bear, and not the size.
- **neighbouring settings**: verdict and mean of a run with other learning rates ("grid"), other looks at the training
  ("looks") or layers of another width ("width"), some with fewer seeds; "no matter" where the setting cannot change
  the number, as rates before any training; "not tried" where an experiment has such a setting that was not run yet.
- "Up to 100 steps" and the like is the mean over the looks at the training until then.
- "Held" means: a constant for the gradient. "Recalibrated" and "exact" statistics are those of the whole training set,
  layer by layer. "A prior of 16" counts the statistics of training like 16 images beside the new ones.
- **published**: the number of the source, for the network that it names.
- Points are percentage points of accuracy, on test images where nothing else is said.""",
)


def kept(folder: Path, experiment: str = "*") -> list[Result]:
    """The results in a folder, one file each, by topic; none where there is no such folder.

    Args:
        folder: where ``normwise lab run --keep`` put them.
        experiment: whose; all of them unless it is named.

    Raises:
        ValueError: a file is no result; the sentence names it.
    """
    found = []
    own = sorted(folder.glob(f"{experiment}.json"))
    for path in own if experiment == "*" else [*own, *sorted(folder.glob(f"{experiment}.*.json"))]:
        try:
            found.append(from_json(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a result of this version of the lab: run it again and keep it.") from error
    return wording.by_topic(found)


def claims(results: Sequence[Result]) -> str:
    """The page: on what it was measured, how many statements got which verdict, and every statement by topic.

    Args:
        results: of all runs, in the order of the page.
    """
    runs = gathered(results)
    statements = [line.statement for each in runs for line in each.lines]
    parts = [
        "# Batch normalization: which claims hold?",
        f"Measured on {_data(runs)}; {_architectures(runs)}. What holds here need not hold for "
        "networks of another size: data and network stand in every row.",
        *_findings(runs),
        "## How it was measured",
        "Each statement is measured over several seeds, its arms paired by seed, and judged by a rule. Where an arm "
        "chooses its learning rate, all have the same number to choose from, on validation images. A verdict counts "
        "when a second run at other seeds has the same, and when no neighbouring setting that was tried (other rates, "
        "other looks, wider layers) turns it. Where networks are tested, each seed draws its own training and test "
        "images from one set; the intervals are Student's, with the variance that Nadeau and Bengio (2003) give for "
        "this. Both runs draw from the same set. Where a best rate lay at the edge of its grid, or a reader found a "
        "fault in a rule, the experiment was changed and both runs were repeated at the same seeds: the second run "
        "guards against the chance of seeds, not of images, settings or rules. Rules, settings, references and what "
        "would refute each are on the experiments' pages; `normwise lab run` measures all of it again and draws the "
        "figures.",
        "## The verdicts",
        _verdicts(statements),
        _doubts(runs),
        *_COLUMNS,
        *_contradicted(runs),
        *_run(results),
        "## The experiments",
        _contents(runs),
    ]
    topic = None
    for group in by_experiment(runs):
        if group[0].first.topic != topic:
            topic = group[0].first.topic
            parts.append(f"## {topic[:1].upper()}{topic[1:]}")
        parts.append(_section(group))
    return "\n\n".join(parts) + "\n"


def caveats(results: Sequence[Result]) -> list[str]:
    """The limits of what an experiment's numbers can say, once each, from all of its runs."""
    return list(dict.fromkeys(text for result in results for text in result.conclusion.caveats))


def _findings(runs: Sequence[Runs]) -> list[str]:
    """The findings that somebody can act on, each with both runs and all data; or that nothing is settled yet."""
    rows = []
    for place, each in enumerate(findings.shown(runs), start=1):
        name = each.finding.experiment
        first, second = (_numbers(said.effect) for said in (each.line.first, each.line.second) if said)
        said = (
            f"{_cell(each.finding.statement)} ([{wording.title(name)}](experiments/{name}.md))",
            f"{_cell(each.where)}: {_cell(_verdict(each.line.statement))}; {_cell(first)}; second run {_cell(second)}",
            *(f"{_cell(data)}: {_cell(_other(line))}" for data, line in each.elsewhere.items()),
            *(_beside(data, line) for data, line in each.beside),
        )
        rows.append("\n    - ".join((f"{place}. **{_cell(each.finding.advice)}**", *said)))
    none = "Nothing is settled yet: a finding takes a verdict that two runs at different seeds agree on."
    return ["## What this means for you", "\n".join(rows) if rows else none]


def _beside(data: str, line: Line) -> str:
    """Another statement that belongs to a finding, with its numbers."""
    return f"{_cell(line.first.text)} {_cell(data)}: {_cell(_other(line))}"


def _data(runs: Sequence[Runs]) -> str:
    """The data that most experiments use, and the number of others; results that name theirs come before older ones."""
    named = [each.data for each in runs if not each.outdated] or [each.data for each in runs]
    most = [data for data, _ in Counter(named).most_common(NAMED)]
    others = len({*named} - {*most})
    return "; ".join([*most, *([f"and {wording.plural(others, 'other set')} of data"] if others else [])])


def _architectures(runs: Sequence[Runs]) -> str:
    known = [each.first.architecture for each in runs if each.first.architecture]
    return f"{len(set(known))} kinds of networks, most of them small" if known else "with small networks"


def _verdicts(statements: Sequence[Statement]) -> str:
    """The number of statements with each verdict, how many are left after correction, and what each verdict means."""
    head = ["| verdict | statements | after correction | what it says |", "|---|--:|--:|---|"]
    rows = [
        f"| {wording.SYMBOLS[verdict]} {verdict.value} | {all_} | {left if verdict in FOUND else ''} | "
        f"{wording.MEANINGS[verdict]} |"
        for verdict, (all_, left) in count(statements).items()
    ]
    outdated = sum(each.why == FIRST_EDITION for each in statements)
    said = (
        f"{len(statements)} statements at 95 % each: by chance alone some intervals would exclude the truth. After "
        "correction: what is left when the rate of false verdicts among all of the page is held at 5 % (Benjamini and "
        "Hochberg 1995)."
    )
    if outdated:
        said += (
            f" {outdated} of them are {FIRST_EDITION}: their numbers are from one run, from rules that were changed "
            "since, and without what the present rules need, so that they have no verdict."
        )
    return "\n".join([*head, *rows]) + f"\n\n{said}"


def _doubts(runs: Sequence[Runs]) -> str:
    """Reasons for which a reader should trust the verdicts less than their intervals, with how often each is met."""
    some, pairs = apart(runs)
    said = [
        "Statements that repeat the numbers of another one, mostly where two sources claim opposite things or a "
        f"setting makes no difference by construction: {repeated(runs)}.",
    ]
    if pairs:
        said.append(
            f"Of {pairs} statements with an interval in both runs, {some} have two that share no value; by chance "
            "alone fewer than 1 in 100 would. An interval holds for the learning rate that its run picked, and the "
            "other run can pick another one; and running times differ from day to day by more than within one run."
        )
    return " ".join(said)


def _contradicted(runs: Sequence[Runs]) -> list[str]:
    """The statements that do not hold, each with its numbers on all data; or that there is none."""
    lines = [(each, line) for each in runs for line in each.lines]
    left = discoveries([line.statement for _, line in lines])
    against: dict[tuple[str, str], list[tuple[Runs, Line, bool]]] = {}
    for place, (each, line) in enumerate(lines):
        if line.statement.verdict is Verdict.CONTRADICTED:
            against.setdefault((each.first.experiment, line.first.text), []).append((each, line, place in left))
    found = []
    for (name, text), members in against.items():
        who = _cell(wording.who(members[0][1].first, members[0][0].first))
        numbers = "; ".join(
            f"{_cell(each.data)}: {_twice(line)}{'' if kept else ', which falls after the correction'}"
            for each, line, kept in members
        )
        found.append(f"- {_cell(text)} ({who}; [{wording.title(name)}](experiments/{name}.md)) {numbers}.")
    return ["## Contradicted", "\n".join(found) if found else "None so far."]


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
    shares = [result.share for result in results if result.edition >= EDITION]
    if any(shares):
        drawn = ", ".join(f"{share:g}" for share in sorted({share for share in shares if share}))
        said.append(
            f"- intervals: with Nadeau and Bengio's variance in {sum(share > 0 for share in shares)} of {len(shares)} "
            f"runs, whose seeds draw from one set (what is tested on over all else: {drawn}); Student's alone elsewhere"
        )
    commits = [str(stamp["commit"])[:12] for stamp in stamps if stamp.get("commit")]
    if commits:
        said.append(f"- the rules as of commit: {_all(commits)}")
    return ["## The run", "\n".join(said)]


def _contents(runs: Sequence[Runs]) -> str:
    """A row for each experiment: its question, and how many statements got which verdict."""
    head = " | ".join(f"{wording.SYMBOLS[verdict]} {verdict.value}" for verdict in Verdict)
    rows = [f"| | {head} |", "|---|" + "--:|" * len(Verdict)]
    for each in runs:
        found = [line.statement.verdict for line in each.lines]
        counts = " | ".join(str(found.count(verdict) or "") for verdict in Verdict)
        name = each.first.experiment
        rows.append(f"| [{wording.title(name)}](experiments/{name}.md){_of(each)} | {counts} |")
    return "\n".join(rows)


def _of(runs: Runs) -> str:
    """The data of a run that is not on the experiment's own."""
    return f" ({_cell(runs.data)})" if runs.first.settings.get("data") else ""


def _all(values: Sequence[str]) -> str:
    return "; ".join(dict.fromkeys(values))


def _section(group: Sequence[Runs]) -> str:
    """A table of one experiment on all data: the own ones in the usual columns, a column for each of the others."""
    own, *others = group
    heads = (*HEADS, *(f"on {_cell(each.data)}" for each in others), *LAST)
    rows = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines = {each.first.text: each for each in own.lines}
    beside = [{each.first.text: each for each in runs.lines} for runs in others]
    texts = dict.fromkeys(text for every in (lines, *beside) for text in every)
    rows += [_row(lines.get(text), [every.get(text) for every in beside], group) for text in texts]
    name = own.first.experiment
    commands = [
        f"`{result.command}`"
        for runs in group
        for result in (runs.first, runs.second, *runs.neighbours.values())
        if result
    ]
    every = [result for runs in group for result in (runs.first, runs.second) if result]
    title = f"### [{wording.title(name)}](experiments/{name}.md){_of(own)}"
    notes = "\n".join(f"- {_prose(text)}" for text in caveats(every))
    return "\n\n".join((title, "\n".join(rows), notes, "; ".join(commands)))


def _row(line: Line | None, beside: Sequence[Line | None], group: Sequence[Runs]) -> str:
    """A statement on all data; a cell is empty where there is no run that has it."""
    shown = next(each for each in (line, *beside) if each)
    measured = [runs for runs, each in zip(group, (line, *beside), strict=True) if each]
    cells = (
        shown.statement.text,
        wording.who(shown.statement, group[0].first),
        "; ".join(part for part in (*(each.data for each in measured), measured[0].first.architecture) if part),
        _verdict(line.statement) if line else "",
        _numbers(line.first.effect) if line else "",
        _second(line) if line else "",
        *(_other(each) if each else "" for each in beside),
        "; ".join(
            f"on {runs.data}: {near}" if runs.first.settings.get("data") else near
            for runs, each in zip(group, (line, *beside), strict=True)
            if each and (near := _near(each))
        ),
        shown.statement.published,
    )
    return "| " + " | ".join(_cell(each) for each in cells) + " |"


def _verdict(statement: Statement) -> str:
    said = f"{wording.SYMBOLS[statement.verdict]} {statement.verdict.value}"
    return f"{said}: {statement.why}" if statement.why else said


def _other(line: Line) -> str:
    """Verdict, first run and second run on other data, in one cell."""
    again = f"; second run {_second(line)}" if line.second else ""
    return f"{_verdict(line.statement)}; {_numbers(line.first.effect)}{again}"


def _second(line: Line) -> str:
    """The number of the second run, and whether it shares a value with the first."""
    if line.second is None:
        return ""
    return _numbers(line.second.effect) + (", which shares no value with the first" if line.apart else "")


def _near(line: Line) -> str:
    def said(each: Statement) -> str:
        same = each.effect == line.first.effect and each.effect.high > each.effect.low
        return "no matter" if same else f"{wording.SYMBOLS[each.verdict]} {wording.value(each.effect)}"

    tried = [f"{name}: {said(each)}" for name, each in line.neighbours.items()]
    if line.untried and line.statement.verdict in DECIDED:
        tried.append(f"not tried: {' and '.join(line.untried)}")
    return ", ".join(tried)


def _twice(line: Line) -> str:
    """The numbers of both runs, in a sentence."""
    again = f", in the second run {_second(line)}" if line.second else ""
    return _numbers(line.first.effect) + again


def _numbers(effect: Estimate) -> str:
    return f"{wording.value(effect)} [{wording.interval(effect)}]"


def _cell(text: str) -> str:
    """The text without what Markdown would take for a column, a tag or emphasis."""
    for letter in "\\|<>*_`":
        text = text.replace(letter, f"\\{letter}")
    return " ".join(text.split())


def _prose(text: str) -> str:
    return " ".join(text.split()).replace("<", "\\<")
