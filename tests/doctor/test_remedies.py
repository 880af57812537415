"""Each remedy, pasted as it is printed: it runs, and examining again no longer finds the fault."""

from __future__ import annotations

import ast
from typing import Any

import numpy as np
import pytest
import torch

import normwise.torch
from normwise.doctor.check import left, names, remedy
from normwise.doctor.diagnosis import Diagnosis
from normwise.doctor.examination import examine
from tests.doctor.sick_models import CASES

DONE_BY_THE_REMEDY = [name for name in names() if not left(name)]
IN_PROCESSES = "disagreeing_ranks"  # tests/doctor/test_processes.py
NOT_CURED_AT_ONCE = {"decayed_scales", "repeated_updates", "missing_updates", "mixed_domains"}


def examined(at_hand: dict[str, Any]) -> Diagnosis:
    return examine(at_hand["model"], at_hand["batches"], **at_hand["given"])


def checks(diagnosis: Diagnosis) -> list[str]:
    return [each.check for each in diagnosis.findings if each.severity != "note"]


def paste(code: str, at_hand: dict[str, Any]) -> None:
    """Run code as if it were pasted into a notebook in which these names are defined."""
    at_hand |= {"normwise": normwise, "torch": torch, "np": np, "source_model": at_hand["given"].get("source_model")}
    exec(code, at_hand)


def test_every_check_whose_remedy_does_all_has_a_real_model() -> None:
    assert {*DONE_BY_THE_REMEDY} - {IN_PROCESSES} <= {*CASES} - NOT_CURED_AT_ONCE
    assert {*CASES} <= {*names()}


@pytest.mark.parametrize("name", CASES)
def test_a_pasted_remedy_cures_a_real_model(name: str) -> None:
    at_hand = CASES[name]()
    diagnosis = examined(at_hand)
    (finding,) = [each for each in diagnosis.findings if each.check == name]
    assert name in checks(diagnosis)
    paste(finding.remedy, at_hand)
    if name in NOT_CURED_AT_ONCE:
        assert left(name)
        return
    if name == "drifted_data":
        del at_hand["given"]["source_model"]  # from which it differs on purpose now
    again = examined(at_hand)
    assert left(name) or name not in [each.check for each in again.findings]
    assert checks(again) == []


@pytest.mark.parametrize("name", names())
def test_a_remedy_is_code_or_a_comment_that_says_why(name: str) -> None:
    code = remedy(name)
    assert ast.parse(code).body or (code.startswith("# ") and left(name))
    assert "{" not in code.replace("{'bn'", "")
    assert left(name) == "" or left(name).endswith(".")
