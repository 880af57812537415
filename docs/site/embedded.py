"""The reports that the site shows: the lab's, from its kept results, and the doctor's, on a small model."""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "reports"
# Those of `make demo`.
EXPERIMENTS = (
    "does_it_allow_higher_learning_rates",
    "does_it_cure_vanishing_gradients",
    "which_statistics_at_inference",
)
TITLES = {"lab": "The lab's report", "doctor": "The doctor's report"}


def write(site: Path) -> None:
    """Write both pages into the site; nothing is trained for more than a moment, and nothing is fetched."""
    folder = site / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("lab", lab()), ("doctor", doctor())):
        (folder / f"{name}.html").write_text(text, encoding="utf-8")


def lab() -> str:
    """The page that `normwise lab run` writes, from the first run of each experiment that is kept in the repository."""
    from normwise.report import markdown, page

    kept = ROOT / "benchmarks/results/claims"
    return page.render([markdown.kept(kept, name)[0] for name in EXPERIMENTS])


def doctor() -> str:
    """The page that `normwise doctor --html` writes, for a network whose weights changed after its training."""
    import torch

    import normwise

    torch.manual_seed(0)
    first = torch.nn.Linear(8, 16)
    model = torch.nn.Sequential(first, torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    batches = [torch.randn(64, 8) for _ in range(8)]
    for x in batches * 8:
        model(x)
    first.bias.data += 1
    return normwise.examine(model, batches).to_html("a small network")


def frames() -> Iterator[str]:
    """Markdown that shows both pages inside of the site's own."""
    for name, title in TITLES.items():
        address = f"{FOLDER}/{name}.html"
        yield (
            f'\n## {title}\n\n```{{raw}} html\n<iframe class="report" src="{address}" title="{title}"></iframe>\n'
            f'<p><a href="{address}">{title} on a page of its own</a></p>\n```\n'
        )
