"""The last line of every generated page: what to read next."""

from pathlib import Path

DOORS = "[operations on whole models]({up}doors/index.md)"
CASES = "[your symptom]({up}cases.md)"
CHECKS = "[all checks]({up}checks/index.md)"
ESTIMATORS = "[estimators]({up}estimators/index.md)"
CLAIMS = "[all claims]({up}claims.md)"
TOUR = "[the guided tour]({up}learn/index.md)"
# The folder of a page, or the page itself -> what to read next; in a folder's list of pages the first one is left out.
NEXT = {
    "layers": (
        "[all layers]({up}layers/index.md)",
        "[functions]({up}functional/index.md)",
        DOORS,
        ESTIMATORS,
        "[speed]({up}speed.md)",
    ),
    "functional": ("[all functions]({up}functional/index.md)", "[layers]({up}layers/index.md)", DOORS),
    "keras_layers": (
        "[all layers for Keras]({up}keras_layers/index.md)",
        "[from Keras]({up}coming_from_keras.md)",
        DOORS,
    ),
    "doors": ("[all operations]({up}doors/index.md)", CASES, "[the command line]({up}command_line.md)"),
    "callbacks/lightning": ("[all callbacks for Lightning]({up}callbacks/lightning/index.md)", CHECKS, DOORS),
    "callbacks/keras": (
        "[all callbacks for Keras]({up}callbacks/keras/index.md)",
        "[MonitorStatistics]({up}keras_layers/MonitorStatistics.md)",
        "[RecalibrateStatistics]({up}keras_layers/RecalibrateStatistics.md)",
        CHECKS,
    ),
    "testing": ("[for your own tests]({up}testing/index.md)", CHECKS, CASES),
    "estimators": ("[all estimators]({up}estimators/index.md)", "[layers]({up}layers/index.md)", DOORS),
    "checks": (CHECKS, CASES, "[examine]({up}doors/examine.md)", DOORS),
    "experiments": ("[all experiments]({up}experiments/index.md)", CLAIMS, TOUR),
    "claims.md": (
        "[all experiments]({up}experiments/index.md)",
        TOUR,
        "[comparing on your own model]({up}comparing.md)",
    ),
    "changelog.md": ("[names that will go]({up}deprecations.md)", "[all pages]({up}index.md)"),
    "command_line.md": (DOORS, CASES, "[the doctor's JSON]({up}diagnosis_json.md)"),
    "diagnosis_json.md": (CHECKS, CASES, "[examine]({up}doors/examine.md)"),
}


def line(page: Path) -> str:
    """The end of a generated page of ``docs/``, by its path in the clone; empty where the page has its own."""
    folder = "/".join(page.parts[1:-1]) or page.name
    links = NEXT.get(folder, ()) if page.suffix == ".md" else ()
    up = "../" * (len(page.parts) - 2)
    return "\nRead next: " + ", ".join(links[page.name == "index.md" :]).format(up=up) + ".\n" if links else ""
