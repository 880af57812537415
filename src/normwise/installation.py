"""The origin of this installation, and the commands that add to it: libraries of an extra, the compiled kernels.

pip writes down where a package came from unless that was the index, in ``direct_url.json`` beside the metadata
(https://packaging.python.org/en/latest/specifications/direct-url/). So a command here works for a clone, a wheel file
and a repository, and for the index once there is a release on it.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

NAME = "normwise"
SETUPTOOLS = 80
"""The oldest setuptools that builds this package, as pyproject.toml says of an isolated build."""
COMPILERS = ("c++", "g++", "clang++")


@dataclass(frozen=True)
class Origin:
    """The place that the installed package came from.

    Args:
        place: a path or a URL as pip takes it; None: the index.
        editable: whether it is used where it lies.
    """

    place: str | None
    editable: bool = False

    @classmethod
    def found(cls) -> Origin:
        """The origin of this installation."""
        try:
            written = distribution(NAME).read_text("direct_url.json")
        except PackageNotFoundError:
            return cls(None)
        return cls.of(json.loads(written)) if written else cls(None)

    @classmethod
    def of(cls, direct_url: dict[str, Any]) -> Origin:
        """The origin that pip wrote down.

        Example:
            >>> Origin.of({"url": "file:///srv/normwise", "dir_info": {"editable": True}})
            Origin(place='/srv/normwise', editable=True)
        """
        url = direct_url["url"]
        if "vcs_info" in direct_url:
            vcs = direct_url["vcs_info"]
            return cls(f"{vcs['vcs']}+{url}@{vcs.get('requested_revision') or vcs['commit_id']}")
        if urlsplit(url).scheme == "file":
            return cls(url2pathname(urlsplit(url).path), bool(direct_url.get("dir_info", {}).get("editable")))
        return cls(url)

    @property
    def is_folder(self) -> bool:
        """True if the sources are on this machine."""
        return self.place is not None and Path(self.place).is_dir()

    @property
    def is_gone(self) -> bool:
        """True if it was a file or folder of this machine that is no longer there."""
        return self.place is not None and "://" not in self.place and not Path(self.place).exists()

    def with_extra(self, extra: str) -> str:
        """The requirement from which pip installs the libraries of an extra.

        Example:
            >>> Origin("/srv/normwise").with_extra("torch")
            '/srv/normwise[torch]'
            >>> Origin(None).with_extra("torch")
            'normwise[torch]'
        """
        if self.place is None:
            return f"{NAME}[{extra}]"
        return f"{NAME}[{extra}] @ {self.place}" if "://" in self.place else f"{self.place}[{extra}]"


def extra_command(extra: str, origin: Origin | None = None, *, keep_kernels: bool | None = None) -> str:
    """The command that installs the libraries of one of normwise's extras.

    Args:
        extra: its name in pyproject.toml.
        origin: where normwise came from; None to find that out.
        keep_kernels: whether compiled kernels are there, which a build in isolation would leave out; None to find out.

    Example:
        >>> extra_command("torch", Origin(None))
        "...pip install 'normwise[torch]'"
    """
    origin = origin or Origin.found()
    if origin.is_gone:
        libraries = " ".join(shlex.quote(each) for each in libraries_of(extra))
        return f"{pip()} install {libraries or shlex.quote(Origin(None).with_extra(extra))}"
    editable = "-e " if origin.editable else ""
    kept = has_kernels() if keep_kernels is None else keep_kernels
    in_place = "--no-build-isolation " if kept and origin.is_folder and not origin.editable else ""
    return f"{pip()} install {in_place}{editable}{shlex.quote(origin.with_extra(extra))}"


def kernels_command(origin: Origin | None = None) -> str:
    """The command that builds the compiled kernels, against the PyTorch and JAX that are installed.

    Args:
        origin: where normwise came from; None to find that out.

    Example:
        >>> kernels_command(Origin("/srv/normwise.whl"))
        '...pip install --no-build-isolation --force-reinstall --no-deps PATH_OF_A_CLONE'
    """
    origin = origin or Origin.found()
    tools = f"{pip()} install 'setuptools>={SETUPTOOLS}' && " if _lacks_setuptools() else ""
    again = "--force-reinstall --no-deps"
    if origin.editable and origin.is_folder:
        what = f"-e {shlex.quote(str(origin.place))}"
    elif origin.is_folder or (origin.place and "+" in urlsplit(origin.place).scheme):
        what = f"{again} {shlex.quote(str(origin.place))}"
    elif origin.place is None:
        what = f"{again} --no-binary {NAME} {NAME}"
    else:  # a wheel, which holds no sources
        what = f"{again} PATH_OF_A_CLONE"
    return f"{tools}{pip()} install --no-build-isolation {what}"


def how_to_build() -> str:
    """One clause: what is to be done where the compiled kernels are not built."""
    if sys.platform not in ("linux", "darwin"):
        return "they are built on Linux and macOS only"
    named = os.environ.get("CXX", "").split()
    if not any(shutil.which(each) for each in (*named[:1], *COMPILERS)):
        return f"no C++ compiler is here ({', '.join(COMPILERS)}): install one, then run: {kernels_command()}"
    return f"build them with: {kernels_command()}"


def libraries_of(extra: str) -> list[str]:
    """The requirements of an extra, as they stand in the metadata, those of extras within it too.

    Example:
        >>> [each.partition(">")[0] for each in libraries_of("torch")]
        ['torch', 'tqdm', 'safetensors']
    """
    found = list[str]()
    for line in distribution(NAME).requires or ():
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        if marker.replace('"', "'") != f"extra == '{extra}'":
            continue
        within = requirement.removeprefix(f"{NAME}[").removesuffix("]") if requirement.startswith(f"{NAME}[") else ""
        found += [each for name in within.split(",") for each in libraries_of(name)] if within else [requirement]
    return list(dict.fromkeys(found))


def has_kernels() -> bool:
    """True if an extension was compiled into this installation, for any framework."""
    return any((Path(__file__).parent / "kernels").glob("_*_kernels.*"))


def pip() -> str:
    """The command that calls pip of this Python from the shell that called us."""
    found = shutil.which("pip")
    same = found is not None and Path(found).parent == Path(sys.executable).parent
    return "pip" if same else f"{shlex.quote(sys.executable)} -m pip"


def _lacks_setuptools() -> bool:
    try:
        return int(version("setuptools").partition(".")[0]) < SETUPTOOLS
    except (PackageNotFoundError, ValueError):
        return True
