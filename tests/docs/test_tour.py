"""The guided tour: every program runs when it is pasted, both languages have the same pages, links lead somewhere."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from docs import tour, tour_figures
from normwise.lab.settling import DECIDED
from normwise.report import markdown, wording
from normwise.report.runs import gathered

ROOT = Path(__file__).resolve().parents[2]
PAGES = [page["name"] for page in tour.table(ROOT)]
FOLDERS = {language.name: ROOT / language.folder for language in tour.languages(ROOT)}
PROGRAM = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\(([^)#]+)\)")
WIDEST = 70
"""Letters in a line of a program: two programs stand side by side."""


def text_of(language: str, page: str) -> str:
    return (FOLDERS[language] / f"{page}.md").read_text(encoding="utf-8")


def pasted(page: str) -> list[tuple[str, str]]:
    """The programs of a page as a reader copies them, Keras's first, with what stands under each."""
    return PROGRAM.findall(text_of("en", page))


def test_the_tour_has_a_page_for_every_part_of_the_course() -> None:
    assert len(PAGES) >= 11
    assert list(FOLDERS) == ["en", "zh_tw"]
    for folder in FOLDERS.values():
        assert {path.stem for path in folder.glob("*.md")} == {*PAGES, "index"}


@pytest.mark.parametrize("framework", tour.FRAMEWORKS)
def test_every_program_prints_what_stands_under_it(framework: str) -> None:
    """All programs of a framework go into one fresh process, each with names of its own."""
    place = list(tour.FRAMEWORKS).index(framework)
    shown = {page: pasted(page)[place] for page in PAGES}
    found = tour.run({page: program for page, (program, _) in shown.items()}, framework)
    assert {page: text.strip() for page, text in found.items()} == {
        page: text.strip() for page, (_, text) in shown.items()
    }
    assert all(text.strip() for text in found.values())


# The exercises that ask for a change of the program: the changes, and what the answer says that is printed then.
EXERCISES = {
    "feature_scaling": (
        {" 30]": " 3000]", " 90]": " 9000]", " 60]": " 6000]", " 120]": " 12000]", "100_000": "10"},
        {
            "keras": ("as they are: 2500000", "standardized: 9 5"),
            "torch": ("as they are: 2500000", "standardized: 9 5"),
        },
    ),
    "what_it_buys": (
        {"nn.Sigmoid": "nn.ReLU", '"sigmoid"': '"relu"', "(0.1, 1.0)": "(0.1,)"},
        {"keras": ("plain: learned", "batch norm: learned"), "torch": ("plain: did not learn", "batch norm: learned")},
    ),
}


@pytest.mark.parametrize("framework", tour.FRAMEWORKS)
def test_the_answers_of_exercises_are_what_the_changed_programs_print(framework: str) -> None:
    programs = {}
    for page, (changes, _) in EXERCISES.items():
        programs[page] = pasted(page)[list(tour.FRAMEWORKS).index(framework)][0]
        for old, new in changes.items():
            programs[page] = programs[page].replace(old, new)
    if framework == "torch":  # with He's initial weights
        start = "    model = network(batch_norm)\n"
        he = "    for each in model:\n        if isinstance(each, nn.Linear):\n"
        he += "            nn.init.kaiming_normal_(each.weight)\n            nn.init.zeros_(each.bias)\n"
        programs["he"] = programs["what_it_buys"].replace(start, start + he)
    found = tour.run(programs, framework)
    for page, (_, wanted) in EXERCISES.items():
        assert all(words in found[page] for words in wanted[framework]), found[page]
    if framework == "torch":
        assert "plain: learned" in found["he"]


@pytest.mark.parametrize("page", [*PAGES, "index"])
def test_both_languages_have_the_same_programs_headings_and_pictures(page: str) -> None:
    english, chinese = text_of("en", page), text_of("zh_tw", page)
    blocks = [re.findall(r"```(?:python|text)\n.*?```", text, re.DOTALL) for text in (english, chinese)]
    assert blocks[0] == blocks[1]
    plain = [re.sub(r"```.*?```", "", text, flags=re.DOTALL) for text in (english, chinese)]
    levels = [re.findall(r"^(#+) \S", text, re.MULTILINE) for text in plain]
    assert levels[0] == levels[1]
    formulas = [re.findall(r"\$\$.*?\$\$", text, re.DOTALL) for text in plain]
    assert formulas[0] == formulas[1]
    targets = [sorted(Path(each).name for each in LINK.findall(text)) for text in plain]
    assert targets[0] == targets[1]


@pytest.mark.parametrize("page", PAGES)
def test_every_page_has_its_parts(page: str) -> None:
    english = text_of("en", page)
    programs = pasted(page)
    assert len(programs) == 2
    assert "keras" in programs[0][0]
    assert "keras" not in programs[1][0]
    assert max(len(line) for program, _ in programs for line in program.splitlines()) <= WIDEST
    for part in ("## In code", "## Exercise", "<details><summary>Answer</summary>", "## What the lab measured"):
        assert english.count(part) == 1
    assert f"](figures/{page}.svg)" in english
    assert f"](figures/{page}.svg)" in text_of("zh_tw", page)
    assert "[All pages](index.md)" in english


@pytest.mark.parametrize("language", FOLDERS)
@pytest.mark.parametrize("page", [*PAGES, "index"])
def test_links_lead_somewhere(language: str, page: str) -> None:
    targets = LINK.findall(text_of(language, page))
    assert targets
    for target in targets:
        assert (FOLDERS[language] / target).exists(), f"{page} links to {target}, which is not there"


@pytest.mark.parametrize("page", tour.table(ROOT), ids=PAGES)
def test_the_labs_numbers_are_those_that_are_kept(page: dict[str, list[dict[str, str]]]) -> None:
    runs = gathered(markdown.kept(ROOT / tour.KEPT))
    table = text_of("en", str(page["name"])).partition("## What the lab measured")[2].partition("## Read next")[0]
    rows = table.strip().splitlines()[2:]
    wanted = [line for claim in page["claim"] for _, line in tour.lines_of(claim, runs)]
    assert len(rows) == len(wanted) >= len(page["claim"])
    for row, line in zip(rows, wanted, strict=True):
        assert tour.cell(wording.value(line.first.effect)) in row
        assert line.statement.verdict.value in row
    for claim in page["claim"]:
        assert re.search(r"[\u4e00-\u9fff]", claim["zh_tw"])


def test_no_line_of_a_chinese_sentence_is_broken() -> None:
    """Markdown would show a space there."""
    for page in [*PAGES, "index"]:
        text = re.sub(r"```.*?```", "", text_of("zh_tw", page), flags=re.DOTALL)
        assert re.findall(rf"{tour.CHINESE}\n{tour.CHINESE}", text) == []


# Names, and terms that a Chinese textbook leaves in English too.
ENGLISH_IN_CHINESE = re.compile(
    "English|Keras|PyTorch|(Sync)?BatchNorm|BatchRenorm|PerDomain|(PerDomain)?BatchNormalization|Transformer|MNIST|Hessian"
    "|scikit-learn|He|Ioffe|Szegedy|Yang|ReLU|sigmoid|tanh|logit|dropout|dx|dy|dL|dz|sqrt|Var|eps|drift|torch|jax|tensorflow|float"
    "|Glorot|epoch|condition|number|skip|connection|regularization|renormalization|domain|ghost|whitening"
    "|layer|group|instance|norm"
    "|internal|covariate|shift|batch|normalization"  # in brackets behind the Chinese term, where it is introduced
    "|normwise|freeze|fold|recalibrate|adapt|adapting|param_groups|accumulate_gradients|convert_to_domains"
)
# What is no sentence of a page: code, comments, formulas, where links lead, tags.
NO_TEXT = re.compile(r"```.*?```|<!--.*?-->|\$\$.*?\$\$|\$[^$\n]+\$|`[^`]*`|\]\([^)]*\)|<[^>\n]*>", re.DOTALL)


def english(text: str) -> set[str]:
    """The English words of a Chinese text that it has no reason for."""
    words = set(re.findall(r"(?<![A-Za-z])[A-Za-z][A-Za-z_-]*[A-Za-z]", text))
    return {word for word in words if not ENGLISH_IN_CHINESE.fullmatch(word)}


@pytest.mark.parametrize("page", [*PAGES, "index"])
def test_a_chinese_page_is_chinese(page: str) -> None:
    """The numbers and verdicts of the lab and the words of the figure too: languages.toml has what they are called."""
    assert english(NO_TEXT.sub(" ", text_of("zh_tw", page))) == set()
    if page != "index":
        words = ET.fromstring(picture_of("zh_tw", page)).iter("{http://www.w3.org/2000/svg}text")
        assert english(" ".join("".join(word.itertext()) for word in words)) == set()


SIDES = ("grid", "looks", "width", "grid and looks", "grid and width", "looks and width", "grid and looks and width")


@pytest.mark.parametrize(
    "why",
    [
        *(f"{verdict.value}, which changes with the {side}" for verdict in DECIDED for side in SIDES),
        *(f"against the claim in both runs, and not yet tried with another {side}" for side in SIDES),
        *(f"{one.value} at first, then {other.value}" for one in DECIDED for other in DECIDED if one is not other),
        "reproduced at first, then both sides are the same in every seed",
        "both sides are the same in every seed",
        "preliminary: 3 seeds, and a verdict takes 5",
        "against the claim in 5 seeds, and to contradict takes 10",
        "not yet confirmed: no second run at other seeds",
    ],
)
def test_whatever_the_lab_gives_as_a_reason_is_said_in_chinese(why: str) -> None:
    """A new result must not bring a reason into the pages that has no words there yet."""
    (chinese,) = (each for each in tour.languages(ROOT) if each.name == "zh_tw")
    assert english(chinese.said(why)) == set()


def picture_of(language: str, page: str) -> str:
    return (FOLDERS[language] / f"figures/{page}.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("language", FOLDERS)
@pytest.mark.parametrize("page", PAGES)
def test_a_picture_can_be_read_on_a_phone(page: str, language: str) -> None:
    """An article is 358 pixels wide where the screen has 390."""
    picture = picture_of(language, page)
    width = float(ET.fromstring(picture).attrib["width"])
    sizes = [float(size) for size in re.findall(r'font-size(?:: |=")([\d.]+)', picture)]
    assert min(sizes) * min(1.0, 358 / width) > 9


@pytest.mark.parametrize("language", FOLDERS)
@pytest.mark.parametrize("page", PAGES)
def test_a_picture_is_drawn_from_the_kept_numbers_and_follows_a_dark_page(page: str, language: str) -> None:
    picture = picture_of(language, page)
    root = ET.fromstring(picture)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme: dark" in picture
    assert "currentColor" in picture
    assert "http" not in picture.replace("http://www.w3.org", "")


def test_nothing_of_the_tour_is_stale() -> None:
    assert tour.troubles(ROOT) == []
    printed = tour.kept_prints(ROOT)
    for framework in tour.FRAMEWORKS:
        for name, program in tour.programs(ROOT, framework).items():
            assert printed[name]["program"] == tour.digest(program)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The tour with what it is made of."""
    shutil.copytree(ROOT / tour.LEARN, tmp_path / tour.LEARN)
    shutil.copytree(ROOT / tour.KEPT, tmp_path / tour.KEPT)
    (tmp_path / tour_figures.SHEET).parent.mkdir(parents=True)
    shutil.copy(ROOT / tour_figures.SHEET, tmp_path / tour_figures.SHEET)
    return tmp_path


def test_a_changed_program_is_run_again(clone: Path) -> None:
    program = clone / tour.SOURCE / "by_hand/torch.py"
    program.write_text("print('other')\n")
    page = tour.pages(clone)[tour.LEARN / "by_hand.md"]
    assert "(run `make docs`)" in page  # whoever checks sees a page that differs
    assert tour.refresh(clone) == ["ran by_hand/torch"]
    page = tour.pages(clone)[tour.LEARN / "by_hand.md"]
    assert "```python\nprint('other')\n```\n\n```text\nother\n```" in page
    assert tour.refresh(clone) == []


def test_a_program_that_fails_is_said(clone: Path) -> None:
    (clone / tour.SOURCE / "by_hand/torch.py").write_text("raise ValueError('four')\n")
    with pytest.raises(SystemExit, match=r"^a program of the tour failed with torch:\n(.|\n)*ValueError: four$"):
        tour.refresh(clone)


def test_a_changed_number_makes_a_picture_stale(clone: Path) -> None:
    path = clone / tour.KEPT / "does_it_need_large_batches.json"
    result = json.loads(path.read_text("utf-8"))
    result["conclusion"]["figures"][0]["panels"][0]["series"][0]["y"][0] += 0.01
    path.write_text(json.dumps(result))
    figures = [language.figures for language in tour.languages(clone)]
    names = [folder / "small_batches_domains_drift.svg" for folder in figures]
    assert tour.troubles(clone) == [f"{name} is stale; run `make docs`." for name in names]
    assert tour.refresh(clone) == [f"drew {name}" for name in names]
    assert tour.troubles(clone) == []
    (clone / names[0]).unlink()
    (clone / figures[1] / "gone.svg").write_text("")
    assert tour.troubles(clone) == [
        f"{names[0]} is missing; run `make docs`.",
        f"{figures[1] / 'gone.svg'} is of no page any more; delete it.",
    ]


def test_a_claim_that_the_lab_does_not_have_is_named(clone: Path) -> None:
    table = clone / tour.SOURCE / "pages.toml"
    table.write_text(
        table.read_text("utf-8").replace('says = "the same logits in inference mode"', 'says = "other logits"'), "utf-8"
    )
    with pytest.raises(SystemExit) as error:
        tour.pages(clone)
    assert str(error.value) == (
        "docs/learn/source/pages.toml looks for a statement with 'other logits' in the kept results of "
        "can_it_represent_the_identity, which have none: name another one, or alter the words."
    )


def test_a_figure_that_the_lab_does_not_have_is_named(clone: Path) -> None:
    table = clone / tour.SOURCE / "pages.toml"
    table.write_text(table.read_text("utf-8").replace('"sizes_by_step"', '"sizes"'), "utf-8")
    with pytest.raises(SystemExit) as error:
        tour.troubles(clone)
    assert str(error.value) == (
        "docs/learn/source/pages.toml asks for the figure 'sizes' of must_gradients_pass_through_the_statistics, which "
        "is not in its kept results: name another one."
    )


def test_a_place_that_nothing_fills_is_named(clone: Path) -> None:
    page = clone / tour.SOURCE / "by_hand/en.md"
    page.write_text(page.read_text("utf-8").replace("{{next}}", "{{nxet}}"), "utf-8")
    with pytest.raises(SystemExit) as error:
        tour.pages(clone)
    assert str(error.value) == "docs/learn/source/by_hand/en.md asks for {{nxet}}, which the tour does not know."


def test_there_may_be_no_tour(tmp_path: Path) -> None:
    assert (tour.pages(tmp_path), tour.refresh(tmp_path), tour.troubles(tmp_path)) == ({}, [], [])
