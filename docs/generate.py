"""Writes the pages of docs/ that are generated from the code; with `--check`, says which of them are stale.

A page per experiment, per estimator, per check of the doctor, per door of `normwise` and per public layer or function
of `normwise.torch` and `normwise.keras` comes from its docstring, and `command_line.md` from every `--help`;
`claims.md` from the results of the lab's last full run, and the guided tour in `learn/` from `learn/source/`: see
`tour.py`. The sources are read, not imported (all but the command line), so this needs none of the extras, except where
a program or a figure of the tour changed.
"""

import ast
import doctest
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeGuard

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a script finds its own folder only
# The line above is for these:
from docs import command_page, diagnosis_page, read_next, same_arguments, tour  # noqa: E402
from docs.tour import KEPT, NOTICE  # noqa: E402

SECTION = re.compile(r"^([A-Z][^:.]*):$")
FORMULA = re.compile(r"^( *)\.\. math::(.*(?:\n(?:\1 +.*)?(?=\n|\Z))*)", re.MULTILINE)
ARGUMENT = re.compile(r"^(\*{0,2}\w+)(?: \([^)]*\))?: ")
# The end of each page of a check.
ORIGIN = """
## Where the limits come from

`python -m benchmarks.doctor limits` measures on healthy models what the limits are compared with;
[evidence of the doctor](../evidence_of_the_doctor.md) says how often this check is right on models that no limit was
set on.
"""
# The files of a family's folder that are not members of it.
FRAMES = {"__init__", "estimator"}
# The folder of each family -> the folder of its pages, the title of their list, and what a member is.
LISTED = {
    "lab/experiments": (
        "experiments",
        "Experiments of the lab",
        "Each experiment tests one claim about batch normalization, which is the *it* of their names. "
        "`normwise lab run NAME` runs one. The [page of claims](../claims.md) has them by topic, with their verdicts.",
    ),
    "estimators": (
        "estimators",
        "Estimators of running statistics",
        "An estimator combines the statistics of the batches into the running statistics that a layer uses at "
        "inference.",
    ),
    "doctor/checks": (
        "checks",
        "Checks of the doctor",
        "Each check of `normwise doctor` and `normwise.examine` finds one fault. `normwise explain NAME` prints its "
        "page.",
    ),
}
# The rooms that export layers and functions: the folder of their pages, and whom they are for.
ROOMS = {"torch": ("layers", "PyTorch"), "keras": ("keras_layers", "Keras")}
# Smaller packages: the folder of their pages -> the file that exports their names, and the title of the list.
PACKAGES = {
    "functional": ("torch/functional/__init__.py", "Functions for PyTorch"),
    "callbacks/lightning": ("callbacks/lightning/__init__.py", "Callbacks for Lightning"),
    "callbacks/keras": ("callbacks/keras/__init__.py", "Callbacks for Keras"),
    "testing": ("testing.py", "For your own tests"),
}
# The folders of docs/ in which every page is generated.
FAMILIES = ("experiments", "estimators", "checks", "doors", *(folder for folder, _ in ROOMS.values()), *PACKAGES)
FAMILIES += ("learn", "learn/zh_tw")


def pages(root: Path) -> dict[Path, str]:
    """Every generated page, by its path under ``root``, with the text that it should have."""
    wanted: dict[Path, str] = {}
    for folder, (family, title, intro) in LISTED.items():
        wanted |= member_pages(root, root / "src/normwise" / folder, family, title, intro)
    wanted |= door_pages(root)
    for room in ROOMS:
        wanted |= layer_pages(root, room)
    wanted |= package_pages(root)
    if (root / "src/normwise/cli.py").exists():
        wanted[Path("docs/command_line.md")] = command_page.page()
        wanted |= diagnosis_page.diagnosis_pages(root)
    if (root / KEPT).is_dir():
        wanted[Path("docs/claims.md")] = claims_page(root)
    if (root / "CHANGELOG.md").exists():
        wanted[Path("docs/changelog.md")] = changelog_page(root)
    return {page: text + read_next.line(page) for page, text in wanted.items()} | tour.pages(root)


def members(folder: Path) -> list[Path]:
    """The files of a family, found by listing its folder."""
    return sorted(path for path in folder.glob("*.py") if path.stem not in FRAMES and not path.stem.startswith("_"))


def member_pages(root: Path, folder: Path, family: str, title: str, intro: str) -> dict[Path, str]:
    """A page for every member of a family, and the page that lists them by their first sentences."""
    found = {Path("docs", family, f"{source.stem}.md"): member_page(source, root) for source in members(folder)}
    if not found:
        return {}
    lines = [f"- [{title_of(text)}]({path.name}): {summary(text)}\n" for path, text in found.items()]
    notice = NOTICE.format(source=folder.relative_to(root).as_posix())
    return {**found, Path("docs", family, "index.md"): f"{notice}# {title}\n\n{intro}\n\n{''.join(lines)}"}


def title_of(page: str) -> str:
    """The text of a page's first heading."""
    return page.partition("\n# ")[2].partition("\n")[0]


def summary(page: str) -> str:
    """The first sentence of a member's page: what stands behind its title and its call."""
    return " ".join(page.split("\n\n")[3].split())


def member_page(source: Path, root: Path) -> str:
    """The page of an experiment (its module's docstring) or of an estimator (its only public class's)."""
    module = ast.parse(source.read_text(encoding="utf-8"))
    classes = [node for node in module.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    node: ast.Module | ast.ClassDef = module
    call = f"normwise {'explain' if source.parent.name == 'checks' else 'lab run'} {source.stem}"
    if source.parent.name == "estimators":
        if len(classes) != 1:
            raise SystemExit(f"{source} must define one public class, the estimator, and defines {len(classes)}.")
        node = classes[0]
        call = f"normwise.estimators.{node.name}"
    docstring = ast.get_docstring(node)
    if not docstring:
        raise SystemExit(f"{source} has no docstring to make its page from.")
    page = page_of(docstring, title_from(source), call, source.relative_to(root))
    if source.parent.name == "experiments":
        return page + found(source, root) * (root / KEPT).is_dir()
    return page + ORIGIN if source.parent.name == "checks" else page


def title_from(source: Path) -> str:
    """The title of a member's page: its name in words, and as the question that it is where that is an experiment."""
    if source.parent.name != "experiments":
        return source.stem.replace("_", " ").capitalize()
    from normwise.report import wording  # only pages of the lab need the package, and only its base install

    return wording.title(source.stem)


def page_of(docstring: str, title: str, call: str, source: Path) -> str:
    """The page of whatever has that docstring, in that file."""
    return f"{NOTICE.format(source=source.as_posix())}# {title}\n\n`{call}`\n\n{markdown(docstring)}"


def door_pages(root: Path) -> dict[Path, str]:
    """A page for every door, an operation on a whole model, and the page that lists them."""
    top = root / "src/normwise/__init__.py"
    found = [(name, source) for source in members(top.parent / "surgery") for name in listed(source)]
    if not found:
        return {}
    return exported_pages(root, "doors", "normwise", top, sorted(found), "Operations on whole models")


def layer_pages(root: Path, room: str) -> dict[Path, str]:
    """A page for every class and function that a room exports, and the page that lists them."""
    folder, framework = ROOMS[room]
    top = root / "src/normwise" / room / "__init__.py"
    if not top.exists():
        return {}
    title = f"Layers and functions for {framework}"
    return exported_pages(root, folder, f"normwise.{room}", top, exported(top, root), title)


def package_pages(root: Path) -> dict[Path, str]:
    """A page for every name of the packages in ``PACKAGES``, and a page for each package that lists them."""
    found: dict[Path, str] = {}
    for folder, (file, title) in PACKAGES.items():
        top = root / "src/normwise" / file
        if top.exists():
            is_package = top.name == "__init__.py"
            names = exported(top, root) if is_package else ((name, top) for name in listed(top))
            package = ".".join((top.parent if is_package else top.with_suffix("")).relative_to(root / "src").parts)
            found |= exported_pages(root, folder, package, top, names, title)
    return found


def exported_pages(
    root: Path, folder: str, package: str, top: Path, names: Iterable[tuple[str, Path]], title: str
) -> dict[Path, str]:
    """A page for each of a package's names, from its docstring in its file, and the page that lists them."""
    found, lines = {}, list[str]()
    for name, source in names:
        body = ast.parse(source.read_text(encoding="utf-8")).body
        nodes = [node for node in body if defines(node, name)]
        docstring = ast.get_docstring(nodes[-1]) if nodes else None
        if not docstring:
            raise SystemExit(f"{name} in {source} has no docstring to make its page from.")
        page = page_of(docstring, name, f"{package}.{name}", source.relative_to(root))
        if called := nodes[-1] if isinstance(nodes[-1], ast.FunctionDef) else initializer(nodes[-1], body, root):
            page = page.replace(f"`{package}.{name}`", f"```text\n{signature(called, f'{package}.{name}')}\n```", 1)
        found[Path("docs", folder, f"{name}.md")] = page
        summary = re.sub(r"(?<!`)``(?!`)", "`", " ".join(docstring.split("\n\n")[0].split()))
        lines.append(f"- [{name}]({name}.md): {summary}\n")
    notice = NOTICE.format(source=top.relative_to(root).as_posix())
    text = f"{notice}# {title}\n\nYou import these names from `{package}`.\n\n{''.join(lines)}"
    return {**same_arguments.with_arguments(found), Path("docs", folder, "index.md"): text}


def initializer(node: ast.ClassDef, body: list[ast.stmt], root: Path) -> ast.FunctionDef | None:
    """The class's `__init__`, or that of a class of the package that it is derived from; None where there is none."""
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and each.name == "__init__":
            return each
    for base in map(ast.unparse, node.bases):
        there, names = body, [each for each in body if isinstance(each, ast.ImportFrom) and each.module]
        for each in names:
            file = (root / "src" / str(each.module).replace(".", "/")).with_suffix(".py")
            if base in (alias.name for alias in each.names) and file.exists():
                there = ast.parse(file.read_text(encoding="utf-8")).body
        for each in there:
            if isinstance(each, ast.ClassDef) and each.name == base and (found := initializer(each, there, root)):
                return found
    return None


def signature(function: ast.FunctionDef, called: str) -> str:
    """A function, or a class by its `__init__`, as it is called; a line per parameter where they do not fit one."""
    is_class = function.name == "__init__"
    places, names = function.args.args, function.args.kwonlyargs
    defaults = [*[None] * (len(places) - len(function.args.defaults)), *function.args.defaults]
    parameters = [
        ast.unparse(each) + ("" if default is None else f" = {ast.unparse(default)}")
        for each, default in zip([*places, *names], [*defaults, *function.args.kw_defaults], strict=True)
    ]
    if function.args.vararg or names:
        rest = f"*{ast.unparse(function.args.vararg)}" if function.args.vararg else "*"
        parameters.insert(len(places), rest)
    if function.args.kwarg:
        parameters.append(f"**{ast.unparse(function.args.kwarg)}")
    parameters = parameters[is_class:]  # without self
    returns = "" if function.returns is None or is_class else f" -> {ast.unparse(function.returns)}"
    text = f"{called}({', '.join(parameters)}){returns}"
    if len(text) <= 100:
        return text
    return "\n".join([f"{called}(", *(f"    {each}," for each in parameters), f"){returns}"])


def listed(source: Path) -> list[str]:
    """The names in a file's `__all__`; none where it has none."""
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


def exported(door: Path, root: Path) -> Iterator[tuple[str, Path]]:
    """The names in a package's `__all__` that are no modules, each with the file that it is imported from."""
    body = ast.parse(door.read_text(encoding="utf-8")).body
    modules = {
        alias.name: node.module
        for node in body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    for name in listed(door):
        if name not in modules:
            raise SystemExit(f"{name} is in __all__ of {door}, and nothing there imports it by name.")
        place = root / "src" / modules[name].replace(".", "/")
        if place.is_dir():  # a module of a package, or a name that has its page where the package has its own
            continue
        yield name, place.with_suffix(".py")


def defines(node: ast.stmt, name: str) -> TypeGuard[ast.ClassDef | ast.FunctionDef]:
    """True if the statement is the class or the function of that name."""
    return isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name


def markdown(docstring: str) -> str:
    """A Google-style docstring as Markdown: sections become headings, arguments lists, examples code."""
    parts = list[str]()
    for paragraph in re.split(r"\n\n(?=\S)", docstring):
        first, _, rest = paragraph.partition("\n")
        heading = ""  # a sentence behind the arguments is none of them, even if a line of it looks like one
        if found := SECTION.match(first):
            heading = found[1]
            parts.append(f"## {heading}")
            paragraph = textwrap.dedent(rest)
        parts.append("\n".join(section_lines(FORMULA.sub(displayed, paragraph), heading)))
    page = "\n\n".join(parts) + "\n"
    page = re.sub(r":math:`([^`]*)`", r"$\1$", page)
    return re.sub(r"(?<!`)``(?!`)", "`", page)


def displayed(formula: re.Match[str]) -> str:
    """A formula as GitHub's Markdown displays it."""
    lines = [line.strip() for line in formula[2].splitlines() if line.strip()]
    return "\n".join(formula[1] + line for line in ["$$", *lines, "$$"])


def section_lines(body: str, heading: str) -> Iterator[str]:
    """The lines of one section, with its examples fenced and its arguments as a list."""
    example = list[str]()
    for line in [*body.splitlines(), None]:
        if line and (line.startswith(">>>") or example):
            example.append(line)
            continue
        if example:
            yield from ["```python", *pasteable("\n".join(example) + "\n"), "```"]
            example = []
        if line is not None:
            is_argument = heading in ("Args", "Attributes", "Raises", "Warns") and ARGUMENT.match(line)
            yield ARGUMENT.sub(r"- `\1`: ", line) if is_argument else line


def pasteable(example: str) -> Iterator[str]:
    """A docstring's example as a reader can paste it: no prompts, and what is printed in comments."""
    importing, inside = True, False
    for part in doctest.DocTestParser().get_examples(example):
        lines = re.sub(r" *# doctest: .*", "", part.source).splitlines()
        is_import = lines[0].startswith(("import ", "from "))
        if inside or (importing and not is_import and part.lineno):
            yield ""  # Python's prompt asks for it behind a block
        importing, inside = importing and is_import, lines[-1].startswith(" ")
        yield from lines
        yield from ("# " + line for line in part.want.splitlines())


def found(source: Path, root: Path) -> str:
    """The end of an experiment's page: what its numbers cannot say, from its kept results, and where they stand."""
    from normwise.report import markdown  # only pages of the lab need the package, and only its base install

    results = markdown.kept(root / KEPT, source.stem)
    caveats = "".join(f"* {text}\n" for text in markdown.caveats(results))
    verdicts = "No results of this experiment are kept in the repository yet."
    if results:
        verdicts = f"[What was measured, and the verdicts](../claims.md#{source.stem.replace('_', '-')})"
    return f"\n## Caveats\n\n{caveats}" * bool(caveats) + f"\n## Verdicts\n\n{verdicts}\n"


def claims_page(root: Path) -> str:
    """The conclusions of the lab's last full runs, from their results as they are kept."""
    from normwise.report import markdown

    source = f"the results in {KEPT.as_posix()}/, which `normwise lab run --keep {KEPT.as_posix()}` writes,"
    return NOTICE.format(source=source).replace("; edit it there", "") + markdown.claims(markdown.kept(root / KEPT))


def changelog_page(root: Path) -> str:
    """CHANGELOG.md, which the site has too: without the marks for towncrier and its own last line."""
    text = (root / "CHANGELOG.md").read_text("utf-8").rpartition("\nRead next: ")[0]
    text = re.sub(r"<!--.*?-->\n+", "", text).replace("](docs/", "](")
    return NOTICE.format(source="CHANGELOG.md") + text.rstrip() + "\n"


def troubles(root: Path, wanted: dict[Path, str]) -> list[str]:
    """One sentence for every page that is missing, stale or left over from a member that is gone."""
    found = []
    for page, text in wanted.items():
        if not (root / page).exists():
            found.append(f"{page} is missing; run `make docs`.")
        elif (root / page).read_text(encoding="utf-8") != text:
            found.append(f"{page} is stale; run `make docs`.")
    found += [f"{page} has no source any more; run `make docs`." for page in orphans(root, wanted)]
    return found + tour.troubles(root)


def orphans(root: Path, wanted: dict[Path, str]) -> list[Path]:
    """The pages in the generated folders that nothing generates."""
    there = [page.relative_to(root) for family in FAMILIES for page in (root / "docs" / family).glob("*.md")]
    return sorted(set(there) - set(wanted))


def main(root: Path, *, check: bool) -> int:
    """Writes the pages, or only checks them; returns the exit code."""
    for each in [] if check else tour.refresh(root):
        print(each)
    wanted = pages(root)
    if check:
        found = troubles(root, wanted)
        print("\n".join(found) or f"The {len(wanted)} generated pages are current.")
        return 1 if found else 0
    for page in orphans(root, wanted):
        (root / page).unlink()
        print(f"removed {page}")
    for page, text in wanted.items():
        (root / page).parent.mkdir(parents=True, exist_ok=True)
        (root / page).write_text(text, encoding="utf-8")
    print(f"wrote {len(wanted)} pages")
    return 0


if __name__ == "__main__":
    sys.exit(main(ROOT, check="--check" in sys.argv[1:]))
