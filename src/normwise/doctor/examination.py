"""``examine``: what normalization does wrong in a model, on some data."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from normwise.doctor.check import chosen, run
from normwise.doctor.diagnosis import Diagnosis
from normwise.doctor.gathering import Gathering
from normwise.doctor.received import check_functions
from normwise.doctor.subject import Subject
from normwise.errors import UnsuitableModel
from normwise.facts import Processes
from normwise.frameworks import framework_of, refusal
from normwise.recalibration.batches import Batches


def examine(
    model: Any,
    batches: Any,
    *,
    loss: Callable[[Any, Any], Any] | str | None = None,
    metric: Callable[[Any, Any], Any] | str | None = None,
    train_step: Callable[[Any, Any], object] | None = None,
    source_model: Any = None,
    only: Collection[str] | None = None,
    allow: Collection[str] = (),
    forward_fn: Callable[[Any, Any], Any] | None = None,
    at_most: int | None = None,
    distributed: Any = None,
) -> Diagnosis:
    """Name what normalization does wrong in a model, in which layer, with the number that proves it.

    The model is afterwards as before, byte for byte, also after an error. The data are gone through five times at most,
    and once more for each layer in question.

    Args:
        model: a ``torch.nn.Module`` or a built ``keras.Model``.
        batches: as for ``recalibrate``, with targets where there are some: ``(x, y)``.
        loss: ``loss(outputs, targets)``, a mean over the batch, or, for a Keras model, a loss of Keras or the name of
            one, as ``compile`` takes it; lets the diagnosis say what a fault costs. A loss or metric decides whether
            running statistics that are off cost anything, and can take a finding away; ``skipped`` lists what was
            taken away, with the numbers.
        metric: the same of a metric, for example an accuracy. With both, a metric that changes by 50 % or more is
            enough, if the loss agrees with it.
        train_step: ``train_step(model, batch)``, one step of the optimizer as your loop does it, with its own optimizer
            on the model that it is given; three steps on a copy show updates per step and frozen layers that move.
        source_model: what this model was derived from (folded, converted, averaged, exported).
        only: names of the only checks to run; None for all that need not be named.
        allow: names of checks not to run.
        forward_fn: ``forward_fn(model, batch)``, how a batch enters the model, if the rules do not serve.
        at_most: use so many batches; None for all.
        distributed: for PyTorch models. None: this process examines for itself. True, or a process group of
            ``torch.distributed``: every process of it calls ``examine``, and they compare their running statistics and
            weights before each goes through its own data; a process that does not call is waited for.

    Returns:
        findings, the most expensive first, and the checks that could not be carried out.

    Raises:
        UnsuitableModel: not a model of either framework.
        UnknownName: no such check, or no loss or metric of this name in Keras.
        CallFailed: the model does not take a batch, or a batch, ``loss``, ``metric`` or ``train_step`` failed.
        NormwiseError: no batches, batches without samples or with values that are not finite, or ``only`` and
            ``allow`` leave no check; with ``distributed``, another process failed or is gone.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1)).eval()
        >>> data = [5 + torch.randn(32, 4) for _ in range(4)]
        >>> diagnosis = examine(model, data)
        >>> diagnosis.findings[0].check, diagnosis.findings[0].layers
        ('never_updated_statistics', ('0',))
    """
    wanted = chosen(only, allow)
    check_functions(train_step=train_step, forward_fn=forward_fn)
    subject = _subject(model, forward_fn)
    told: dict[str, Any] = {"loss": loss, "metric": metric}
    if subject.framework == "keras":
        from normwise.keras.models.targets import by_name

        told = {name: by_name(function, name) for name, function in told.items()}
    check_functions(**told)
    if source_model is not None and framework_of(source_model) != subject.framework:
        needed = (
            "a torch.nn.Module, as the model is" if subject.framework == "torch" else "a Keras model, as the model is"
        )
        raise UnsuitableModel(refusal("examine, for source_model,", needed, source_model))
    processes = _processes(model, distributed, subject)
    source = Batches(_given(batches, at_most, subject), at_most=at_most, called="examine")
    functions = (None if each is None else subject.outputs_first(each) for each in told.values())
    facts = Gathering(subject, source, *functions).facts(train_step, source_model)
    if isinstance(processes, str):
        facts = replace(facts, missing={**facts.missing, "processes": processes})
    elif processes is not None:
        facts = replace(facts, processes=processes)
    findings, skipped = run(wanted, facts)
    return Diagnosis(tuple(findings), tuple(skipped), tuple(wanted), facts)


def _subject(model: Any, forward_fn: Callable[[Any, Any], Any] | None) -> Subject:
    framework = framework_of(model)
    if framework == "torch":
        from normwise.torch.models.observe import TorchSubject

        return TorchSubject(model, forward_fn)
    if framework == "keras":
        from normwise.keras.models.observe import KerasSubject

        return KerasSubject(model, forward_fn)
    raise UnsuitableModel(refusal("examine", "a PyTorch or Keras model (torch.nn.Module or keras.Model)", model))


def _processes(model: Any, distributed: Any, subject: Subject) -> Processes | str | None:
    """The differences of processes, before anything that could fail in one of them alone; or why they are not known."""
    if subject.framework == "torch":
        from normwise.torch.models.ranks_apart import processes

        return processes(model, distributed)
    return None if distributed is None else "processes can be compared for PyTorch models only"


def _given(batches: Any, at_most: int | None, subject: Subject) -> Any:
    if subject.framework == "keras":
        from normwise.keras.models.feeding import batches_of

        return batches_of(batches, 32, at_most=at_most, called="examine")
    return batches
