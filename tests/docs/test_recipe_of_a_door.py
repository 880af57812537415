"""The recipe for an operation on a whole model, followed: the start of all running statistics."""

from __future__ import annotations

from pathlib import Path

from tests.docs.following import Copy

FUNCTION = '''"""The start of all running statistics of a model."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from normwise.torch.models.model_checks import check_model
from normwise.torch.models.transaction import transaction


def restart_statistics(model: nn.Module) -> list[str]:
    """Let every batch norm of the model begin again.

    Args:
        model: any module.

    Returns:
        the names of the batch norms.

    Raises:
        UnsuitableModel: not a ``torch.nn.Module``, or one that torch.jit or torch.export made.
    """
    check_model(model, called="restart_statistics")
    with transaction(model):
        layers = {name: each for name, each in model.named_modules() if isinstance(each, _BatchNorm)}
        for each in layers.values():
            each.reset_running_stats()
    return [*layers]
'''
DOOR = '''@door(torch=lazy_import_module("normwise.torch.models.restart_statistics", "restart_statistics"))
def restart_statistics(model: nn.Module) -> list[str]:
    """Let every batch norm of a PyTorch model begin again.

    Args:
        model: a ``torch.nn.Module``.

    Returns:
        the names of the batch norms.

    Raises:
        UnsuitableModel: not a PyTorch model, or one that torch.jit or torch.export made.

    Example:
        >>> import torch
        >>> from normwise import restart_statistics
        >>> restart_statistics(torch.nn.Sequential(torch.nn.BatchNorm1d(2)))
        ['0']
    """


'''
ITS_TEST = '''"""All running statistics begin again, and on an error none of them."""

import pytest
import torch
from torch import nn

import normwise
from normwise.frameworks import instead_of


class Broken(nn.BatchNorm1d):
    def reset_running_stats(self) -> None:
        if hasattr(self, "built"):
            raise RuntimeError("no")


def test_restart_statistics() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    model[0].running_mean.fill_(3)
    assert normwise.restart_statistics(model) == ["0"]
    assert model[0].running_mean.tolist() == [0, 0]


def test_on_an_error_restart_statistics_leaves_the_model() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), Broken(2))
    model[0].running_mean.fill_(3)
    model[1].built = True
    with pytest.raises(RuntimeError, match="^no$"):
        normwise.restart_statistics(model)
    assert model[0].running_mean.tolist() == [3, 3]


def test_a_misspelt_keyword_of_restart_statistics_is_refused() -> None:
    with pytest.raises(TypeError) as refused:
        normwise.restart_statistics(nn.BatchNorm1d(2), layer="bn")
    assert str(refused.value) == "restart_statistics has no keyword 'layer': it has model."


def test_restart_statistics_says_what_users_of_keras_do() -> None:
    assert instead_of("restart_statistics") == "build the model again"
'''


def test_a_door(tmp_path: Path) -> None:
    copy = Copy(tmp_path, "Add an operation on a whole model")
    copy.write("src/normwise/torch/models/restart_statistics.py", FUNCTION)
    copy.write("tests/torch/models/test_restart_statistics.py", ITS_TEST)
    doors = "src/normwise/surgery/statistics.py"
    before = '@door(torch=lazy_import_module("normwise.torch.models.domain_statistics"'
    copy.change(doors, before, DOOR + before)
    copy.change(
        doors, '"pool_statistics", "statistics_from"]', '"pool_statistics", "restart_statistics", "statistics_from"]'
    )
    top = "src/normwise/__init__.py"
    copy.change(top, "pool_statistics, statistics_from\n", "pool_statistics, restart_statistics, statistics_from\n")
    copy.change(top, '    "save_memory",\n', '    "restart_statistics",\n    "save_memory",\n')
    before = '    "save_memory": "call normwise.save_memory'
    copy.change("src/normwise/frameworks.py", before, f'    "restart_statistics": "build the model again",\n{before}')
    exam = ("tests/surgery/test_doors.py", "tests/torch/models/test_restart_statistics.py", doors)
    copy.check_tests(*exam, only="restart_statistics or table or told", at_least=11)
    pages = copy.pages()
    assert "normwise.restart_statistics(model: nn.Module) -> list[str]" in pages["docs/doors/restart_statistics.md"]
    assert "- [restart_statistics](restart_statistics.md): " in pages["docs/doors/index.md"]
