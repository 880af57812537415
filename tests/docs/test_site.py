"""The site: no dead link, every page can be reached, search works, and it fits a phone and a dark room."""

from __future__ import annotations

import html
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from docs.site import embedded
from tests.browser import Browser, find

ROOT = Path(__file__).parents[2]
PAGES = (
    "index",
    "learn/by_hand",
    "learn/zh_tw/backward",
    "layers/BatchNorm2d",
    "doors/recalibrate",
    "functional/batch_norm",
    "reports",
    "claims",
    "zoo",
    "deployment",
)
SEARCHED: dict[str, list[str]] = tomllib.loads((ROOT / "docs/site/searched.toml").read_text("utf-8"))
TOUR = ("by_hand", "small_batches_domains_drift", "what_it_does_not", "zh_tw/backward")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning, such as a link that leads nowhere, ends the build."""
    if find_spec("furo") is None:
        pytest.skip("the site's generator is not installed; the extra `dev` has it")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs/site", "docs", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser(find()) as running:
        yield running


def test_the_first_page_says_how_to_install_it() -> None:
    assert "\npip install '.[torch]'" in (ROOT / "docs/index.md").read_text("utf-8").partition("| you want to |")[0]


def test_every_page_of_docs_is_in_it(site: Path) -> None:
    pages = {path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")}
    pages = {page for page in pages if "source" not in page.parts}  # what pages are made from
    assert len(pages) > 150
    assert [page for page in sorted(pages) if not (site / page).with_suffix(".html").exists()] == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_pages_are_quiet_and_fit(width: int, dark: bool, site: Path, browser: Browser) -> None:
    for page in PAGES:
        shown = browser.open(site / f"{page}.html", width=width, dark=dark)
        assert shown.complaints == []
        assert all(address.startswith(("file:", "data:")) for address in shown.requests)  # nothing from elsewhere
        assert shown.ask("document.documentElement.scrollWidth <= innerWidth"), f"{page} is wider than {width} pixels"
        light = shown.ask("getComputedStyle(document.body).backgroundColor.match(/\\d+/g)[0] > 127")
        assert light is not dark


def test_a_wide_table_can_be_read_on_a_phone(site: Path, browser: Browser) -> None:
    """Moved sideways: its columns are not as narrow as their longest word, which makes a row a screen high."""
    rows = "Math.max(...[...document.querySelectorAll('article tr')].map(row => row.offsetHeight))"
    for page, most in {"cases": 260, "claims": 350, "speed": 350}.items():
        assert browser.open(site / f"{page}.html", width=390).ask(rows) < most, page


@pytest.mark.parametrize("width", [1280, 1920])
def test_no_line_of_code_is_cut_on_a_large_screen(width: int, site: Path, browser: Browser) -> None:
    """Not in the tour either, where two programs stand side by side where there is room for both."""
    cut = (
        "[...document.querySelectorAll('article pre')].filter(e => e.scrollWidth > e.clientWidth).map(e => e.innerText)"
    )
    code = sorted(site.rglob("*.html"), key=lambda page: page.as_posix())
    code = [page for page in code if page.relative_to(site).parts[0] not in ("_static", "reports")]
    longest = {max([len(line) for line in _code(page)], default=0): page for page in code}
    shown = {*[longest[width] for width in sorted(longest)[-3:]], *[site / f"learn/{name}.html" for name in TOUR]}
    for page in shown:
        assert browser.open(page, width=width).ask(cut) == [], page


def _code(page: Path) -> list[str]:
    blocks = re.findall(r"<pre>(.*?)</pre>", page.read_text("utf-8"), re.DOTALL)
    return [html.unescape(re.sub(r"<[^>]+>", "", line)) for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("name", ["lab", "doctor"])
def test_a_report_is_a_page_of_the_site(name: str, site: Path, browser: Browser) -> None:
    for width, dark in ((1200, False), (390, True)):
        shown = browser.open(site / f"reports/{name}.html", width=width, dark=dark)
        assert shown.complaints == []
        assert shown.ask("document.documentElement.scrollWidth <= innerWidth")
        assert shown.ask("document.querySelectorAll('svg').length") >= 1
        words = shown.ask("document.body.innerText")
        assert ("3 experiments with" if name == "lab" else "Stale running statistics") in words
    inside = browser.open(site / "reports.html", width=390)
    assert any(address.endswith(f"reports/{name}.html") for address in inside.requests)
    assert inside.ask("Math.min(...[...document.querySelectorAll('iframe')].map(frame => frame.clientWidth))") > 380


LETTERS = """[...document.querySelectorAll('svg text')].map(text => {
  const drawn = text.getScreenCTM();
  return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(drawn.a, drawn.b);
})"""


@pytest.mark.parametrize("name", ["lab", "doctor"])
def test_the_letters_of_a_figure_can_be_read_on_a_phone(name: str, site: Path, browser: Browser) -> None:
    sizes = browser.open(site / f"reports/{name}.html", width=380).ask(LETTERS)
    assert len(sizes) > 10
    assert min(sizes) > 9


# What is no word of a page for its reader: comments, formulas, pictures, where links lead, tags, languages of blocks.
UNSEEN = re.compile(
    r"<!--.*?-->|\$\$.*?\$\$|\$[^$\n]+\$|!\[[^]]*\]\([^)]*\)|\]\([^)]*\)|<[^>\n]*>|^```\w+", re.DOTALL | re.MULTILINE
)


def test_no_word_of_a_page_is_lost_or_changed(site: Path) -> None:
    """Some lines of plain Markdown, such as one that begins with %, and -- have a meaning of their own for Sphinx."""
    for source in sorted((ROOT / "docs").rglob("*.md")):
        page = source.relative_to(ROOT / "docs").with_suffix(".html")
        if "source" in page.parts:
            continue
        text = UNSEEN.sub(" ", source.read_text("utf-8"))
        article = (site / page).read_text("utf-8").partition("<article")[2].partition("</article>")[0]
        shown = html.unescape(re.sub(r"<[^>]*>", " ", re.sub(r"</?span[^>]*>", "", article)))
        wanted, there = (Counter(re.findall(r"--[a-z]+|[A-Za-z0-9]{4,}", each)) for each in (text, shown))
        assert wanted - there == Counter(), page


def test_every_link_leads_to_a_file(site: Path) -> None:
    """Those that Sphinx does not see as well: of the navigation, of raw HTML, of styles and pictures."""
    dead = set()
    pages = [*site.rglob("*.html")]
    assert len(pages) > 150
    for page in pages:
        if page.relative_to(site).parts[0] == "_static":
            continue
        for address in re.findall(r'<[^>]* (?:href|src)="([^"#?]+)', page.read_text("utf-8")):
            if not re.match(r"[a-z]+:", address) and not (page.parent / unquote(address)).exists():
                dead.add((page.relative_to(site).as_posix(), address))
    assert dead == set()


def results(words: str, site: Path, browser: Browser) -> list[str]:
    """The pages that the search finds, the best one first."""
    shown = browser.open(site / "search.html", query=f"?q={quote(words)}")
    for _ in range(200):
        if shown.ask("/finished|not match/.test(document.querySelector('#search-results')?.innerText)"):
            break
        shown.ask("new Promise(done => setTimeout(done, 50))")
    links = "[...document.querySelectorAll('#search-results li a')].map(link => link.getAttribute('href'))"
    found = [re.split("[?#]", address)[0].removesuffix(".html") for address in shown.ask(links)]
    assert shown.complaints == []
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("page", ["doors/recalibrate", *SEARCHED])
def test_what_people_type_finds_the_page_that_answers_it(page: str, site: Path, browser: Browser) -> None:
    for words in SEARCHED.get(page, ["recalibrate"]):
        assert page in results(words, site, browser)[:3], words


def test_no_two_pages_have_one_title(site: Path) -> None:
    """The search and the navigation show titles only."""
    titles: dict[str, list[str]] = {}
    for page in sorted(site.rglob("*.html")):
        found = re.search(r"<h1>(.*?)<a class=\"headerlink\"", page.read_text("utf-8"))
        if found and "_static" not in page.parts:
            titles.setdefault(re.sub(r"<[^>]*>", "", found[1]), []).append(page.relative_to(site).as_posix())
    assert len(titles) > 150
    assert {title: pages for title, pages in titles.items() if len(pages) > 1} == {}


def test_every_page_leads_on(site: Path) -> None:
    """The navigation has the page before and the page behind it."""
    for page in PAGES:
        text = (site / f"{page}.html").read_text("utf-8")
        assert 'class="next-page"' in text, page


def test_the_reports_of_the_lab_are_those_of_the_demo() -> None:
    assert f"\nDEMO := {' '.join(embedded.EXPERIMENTS)}\n" in (ROOT / "Makefile").read_text("utf-8")
