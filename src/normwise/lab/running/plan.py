"""The plan of a run: the number of seeds, the settings, and the images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normwise.errors import NormwiseError
from normwise.lab.experiment import Experiment, neighbours_of, seeds_of, settings_of
from normwise.lab.running.devices import CPU

if TYPE_CHECKING:  # images need NumPy, and listing must not wait for it
    from normwise.lab.data.images import Source


@dataclass(frozen=True)
class Plan:
    """The same for all experiments of a run.

    Args:
        seeds: how many seeds, at least 2; None: as many as each experiment takes.
        quick: 3 seeds, and smaller settings where an experiment has them.
        full: larger settings where an experiment has them.
        data: the data set in the place of the digits.
        first_seed: where the seeds begin; others than the usual ones show whether verdicts depend on them.
        setting: a neighbouring setting, for the experiments that have it; empty: the experiments' own.
        device: on which trials run, in PyTorch's words.

    Raises:
        NormwiseError: too few seeds, a negative one, or two of quick, full and a neighbouring setting at once.
    """

    seeds: int | None = None
    quick: bool = False
    full: bool = False
    data: Source | None = None
    first_seed: int = 0
    setting: str = ""
    device: str = CPU

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if self.seeds is not None and self.seeds < 2:
            raise NormwiseError(f"an experiment needs at least 2 seeds to have a spread: got {self.seeds}.")
        if self.first_seed < 0:
            raise NormwiseError(f"seeds are counted from 0: got {self.first_seed} for the first one.")
        if self.quick and self.full:
            raise NormwiseError("a run is either quick or full: got both; leave one of them out.")
        if self.setting and (self.quick or self.full):
            raise NormwiseError(
                f"the setting {self.setting!r} is a neighbour of the ordinary one: leave quick and full out."
            )

    def seeds_for(self, experiment: Experiment) -> tuple[int, ...]:
        """The seeds themselves."""
        n = self.seeds if self.seeds is not None else seeds_of(experiment, quick=self.quick)
        return tuple(range(self.first_seed, self.first_seed + n))

    def settings_for(self, experiment: Experiment) -> Any:
        """The settings."""
        if self.setting:
            return neighbours_of(experiment)[self.setting]
        return settings_of(experiment, quick=self.quick, full=self.full)

    def command(self, name: str, seeds: int) -> str:
        """The command that runs one experiment so."""
        first = f" --first-seed {self.first_seed}" if self.first_seed else ""
        setting = f" --setting {self.setting}" if self.setting else ""
        size = " --quick" if self.quick else " --full" if self.full else ""
        device = "" if self.device == CPU else f" --device {self.device}"
        return f"normwise lab run {name} --seeds {seeds}{first}{size}{setting}{self._data()}{device}"

    def _data(self) -> str:
        if self.data is None:
            return ""
        # where somebody keeps the files is of no use to others
        return f" {(self.data if self.data.folder is None else replace(self.data, folder=Path('DIR'))).options}"
