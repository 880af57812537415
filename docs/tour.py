"""The guided tour of docs/learn/: its pages in both languages, from one source for code, numbers and figures.

A page is a folder of ``docs/learn/source/``: its text in English and in Traditional Chinese, and the same program for
Keras and for PyTorch. ``pages.toml`` has the order, the figures and the claims. What a program prints is kept in
``printed.json`` with a digest of the program, so that checking the pages runs nothing and needs no framework; whoever
changes a program runs ``make docs``.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normwise.report import markdown, wording
from normwise.report.runs import Line, Runs, gathered

LEARN = Path("docs/learn")
SOURCE = LEARN / "source"
KEPT = Path("benchmarks/results/claims")  # of the last full runs of the lab
FRAMEWORKS = {"keras": "Keras", "torch": "PyTorch"}
CHINESE = r"[\u3000-\u30ff\u4e00-\u9fff\uff00-\uffef]"
PICTURE = r"\{\{figure: (.*?)\}\}"
NOTICE = "<!-- Generated from {source} by `make docs`; edit it there. -->\n\n"


@dataclass(frozen=True)
class Language:
    """The place of the pages of a language, and the words that are the same on all of them: see ``languages.toml``."""

    name: str
    folder: Path
    other: str
    columns: Sequence[str]
    previous: str
    contents: str
    following: str
    sentence: str
    colon: str
    semicolon: str
    brackets: Sequence[str]
    words: Sequence[tuple[str, str]]
    drawn: Sequence[tuple[str, str]]
    relatives: Sequence[str]
    below: Sequence[str]

    @property
    def up(self) -> str:
        """The path from a page to docs/learn/."""
        return "../" * len(self.folder.relative_to(LEARN).parts)

    def said(self, text: str) -> str:
        """A number or a verdict of the lab's in this language, as far as there are words for it."""
        for theirs, ours in self.words:
            text = re.sub(theirs, ours, text)
        return text

    def labelled(self, text: str) -> str:
        """A label of a figure in this language, as far as there is one."""
        for theirs, ours in self.drawn:
            if match := re.fullmatch(theirs, text):
                return match.expand(ours)
        return text

    @property
    def figures(self) -> Path:
        """The folder of the figures with this language's words."""
        return self.folder / "figures"


def languages(root: Path) -> list[Language]:
    """The languages of the tour."""
    found = tomllib.loads((root / SOURCE / "languages.toml").read_text("utf-8"))["language"]
    return [Language(**{**each, "folder": LEARN / each["folder"]}) for each in found]


def table(root: Path) -> list[dict[str, Any]]:
    """The pages in their order, each with its figure and its claims."""
    found: list[dict[str, Any]] = tomllib.loads((root / SOURCE / "pages.toml").read_text("utf-8"))["page"]
    return found


def pages(root: Path) -> dict[Path, str]:
    """Every page of the tour and both lists of them, by path; none where there is no tour."""
    if not (root / SOURCE / "pages.toml").exists():
        return {}
    order, printed = table(root), kept_prints(root)
    runs = gathered(markdown.kept(root / KEPT))
    found = {}
    for language in languages(root):
        texts = {each["name"]: source(root, language, each["name"]) for each in order}
        for place, each in enumerate(order):
            text = texts[each["name"]]
            text = text.replace("{{code}}", code(root, each["name"], printed))
            text = text.replace("{{measured}}", measured(each, runs, language))
            text = re.sub(PICTURE, rf"![\1](figures/{each['name']}.svg)", text)
            text = text.replace("{{next}}", around(order, place, texts, language))
            found[language.folder / f"{each['name']}.md"] = finished(text, each["name"], language)
        listing = "\n".join(listed(place, each["name"], texts, language) for place, each in enumerate(order, start=1))
        index = source(root, language, "index").replace("{{pages}}", listing)
        found[language.folder / "index.md"] = finished(index, "index", language)
    return found


def source(root: Path, language: Language, page: str) -> str:
    """The text of a page as it is written, or of the list of pages."""
    return (root / source_of(language, page)).read_text(encoding="utf-8")


def source_of(language: Language, page: str) -> Path:
    """The place of that text."""
    return SOURCE / (f"index.{language.name}.md" if page == "index" else f"{page}/{language.name}.md")


def finished(text: str, page: str, language: Language) -> str:
    """The page with its notice, the link to the other language, and links that lead out of its folder."""
    if left := re.findall(r"\{\{.*?\}\}", text):
        raise SystemExit(f"{source_of(language, page)} asks for {left[0]}, which the tour does not know.")
    if language.name == "zh_tw":  # a line break within a Chinese sentence would be shown as a space
        text = re.sub(rf"(?<={CHINESE})\n *(?={CHINESE}|\[)", "", text)
    notice = NOTICE.format(source=source_of(language, page).as_posix())
    return notice + language.other.format(page) + "\n\n" + text.replace("](docs/", f"](../{language.up}")


def code(root: Path, page: str, printed: dict[str, dict[str, str]]) -> str:
    """Both programs side by side, each with what it prints."""
    cells = []
    for framework in FRAMEWORKS:
        program = (root / SOURCE / page / f"{framework}.py").read_text(encoding="utf-8").strip()
        kept = printed.get(f"{page}/{framework}", {})
        lines = kept["printed"].strip() if kept.get("program") == digest(program) else "(run `make docs`)"
        cells.append(f'<td valign="top">\n\n```python\n{program}\n```\n\n```text\n{lines}\n```\n\n</td>')
    heads = "".join(f"<th>{name}</th>" for name in FRAMEWORKS.values())
    return "\n".join(["<table>", f"<tr>{heads}</tr>", "<tr>", *cells, "</tr>", "</table>"])


def measured(page: dict[str, Any], runs: Sequence[Runs], language: Language) -> str:
    """The results of the lab about each claim of a page, on each data set: a table, with links to the experiments."""
    rows = [f"| {' | '.join(language.columns)} |", "|---|---|---|---|"]
    for claim in page["claim"]:
        for place, (on, line) in enumerate(lines_of(claim, runs)):
            text = cell(claim.get(language.name, line.statement.text))
            link = f"[{text}](../{language.up}experiments/{claim['experiment']}.md)" * (not place)
            rows.append(
                f"| {link} | {cell(language.said(on))} | {verdict(line, language)} | {numbers(line, language)} |"
            )
    return "\n".join(rows)


def verdict(line: Line, language: Language) -> str:
    """The verdict of all runs together on a statement, with the reason where they have none."""
    statement = line.statement
    before, behind = language.brackets
    why = f"{before}{language.said(statement.why)}{behind}" if statement.why else ""
    return cell(f"{wording.SYMBOLS[statement.verdict]} {language.said(statement.verdict.value)}{why}")


def numbers(line: Line, language: Language) -> str:
    """The result of the first run and, behind a semicolon, that of the second one."""
    effects = [each.effect for each in (line.first, line.second) if each]
    both = (f"{language.said(wording.value(each))} [{language.said(wording.interval(each))}]" for each in effects)
    return cell(language.semicolon.join(both))


def lines_of(claim: dict[str, str], runs: Sequence[Runs]) -> list[tuple[str, Line]]:
    """The lab's statement that a claim of the tour names by words of its text, on each data set."""
    here = [each for each in runs if each.first.experiment == claim["experiment"]]
    found = [(each.data, line) for each in here for line in each.lines if re.search(claim["says"], line.first.text)]
    if not found:
        raise SystemExit(
            f"{SOURCE / 'pages.toml'} looks for a statement with {claim['says']!r} in the kept results of "
            f"{claim['experiment']}, which have none: name another one, or alter the words."
        )
    return list(dict(reversed(found)).items())[::-1]  # the first one of each


def cell(text: str) -> str:
    """The text without what Markdown would take for a column, a tag or emphasis."""
    return " ".join(re.sub(r"([\\|<>*_`])", r"\\\1", text).split())


def around(order: Sequence[dict[str, Any]], place: int, texts: dict[str, str], language: Language) -> str:
    """Links to the page before, to the list and to the page behind."""
    links = []
    if place:
        before = order[place - 1]["name"]
        links.append(f"{language.previous}{language.colon}[{title(texts[before])}]({before}.md)")
    links.append(f"[{language.contents}](index.md)")
    if place + 1 < len(order):
        behind = order[place + 1]["name"]
        links.append(f"{language.following}{language.colon}[{title(texts[behind])}]({behind}.md)")
    return " · ".join(links)


def listed(place: int, page: str, texts: dict[str, str], language: Language) -> str:
    """A page's line in the list: its title and its first sentence."""
    first = " ".join(texts[page].split("\n\n")[1].split())
    sentence = (first + " ").split(language.sentence)[0].rstrip(" .") + language.sentence.strip()
    return f"{place}. [{title(texts[page])}]({page}.md){language.colon}{sentence}"


def title(text: str) -> str:
    """The heading of a page."""
    return text.partition("\n")[0].removeprefix("# ")


def digest(text: str) -> str:
    """Tells programs, and the numbers of figures, apart."""
    return hashlib.sha256(text.strip().encode()).hexdigest()[:16]


def kept_prints(root: Path) -> dict[str, dict[str, str]]:
    """The output of each program, with the digest of the program that printed it."""
    path = root / SOURCE / "printed.json"
    found: dict[str, dict[str, str]] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return found


def run(programs: dict[str, str], framework: str) -> dict[str, str]:
    """The output of programs, each pasted alone into one fresh process of a framework.

    Raises:
        SystemExit: one of them failed.
    """
    script = (
        "import contextlib, io, json, sys\n"
        "for name, program in json.load(sys.stdin).items():\n"
        "    out = io.StringIO()\n"
        "    with contextlib.redirect_stdout(out):\n"
        "        exec(compile(program, name, 'exec'), {'__name__': '__main__'})\n"
        "    print(json.dumps([name, out.getvalue()]), flush=True)\n"
    )
    environment = {"KERAS_BACKEND": "torch", **os.environ, "OMP_NUM_THREADS": "1"}
    command, text = [sys.executable, "-W", "error::UserWarning", "-c", script], json.dumps(programs)
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"a program of the tour failed with {framework}:\n{done.stderr.strip()}")
    return dict(json.loads(line) for line in done.stdout.splitlines())


def programs(root: Path, framework: str) -> dict[str, str]:
    """The program of every page, by page and framework."""
    return {
        f"{each['name']}/{framework}": (root / SOURCE / each["name"] / f"{framework}.py").read_text("utf-8")
        for each in table(root)
    }


def refresh(root: Path) -> list[str]:
    """Run the programs that changed and draw the figures whose numbers did; what was done, in words."""
    if not (root / SOURCE / "pages.toml").exists():
        return []
    printed, said = kept_prints(root), []
    current: dict[str, dict[str, str]] = {}
    for framework in FRAMEWORKS:
        every = programs(root, framework)
        changed = {name: text for name, text in every.items() if printed.get(name, {}).get("program") != digest(text)}
        outputs = run(changed, framework) if changed else {}
        said += [f"ran {name}" for name in outputs]
        for name, text in every.items():
            current[name] = {"program": digest(text), "printed": outputs[name]} if name in outputs else printed[name]
    if current != printed:
        text = json.dumps(current, indent=1, ensure_ascii=False) + "\n"
        (root / SOURCE / "printed.json").write_text(text, encoding="utf-8")
    from docs import tour_figures  # matplotlib, which checking does not need

    return said + [f"drew {path}" for path in tour_figures.refresh(root, table(root), languages(root))]


def troubles(root: Path) -> list[str]:
    """One sentence for every figure that is missing, stale, or of no page any more."""
    if not (root / SOURCE / "pages.toml").exists():
        return []
    from docs import tour_figures

    return tour_figures.troubles(root, table(root), languages(root))
