"""Prepares a case, measures it, and makes sure that it was what it says."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from bench.micro.cases import Call, Case
from bench.micro.gateway import MicroGateway

Figure = TypeVar("Figure")


class CaseError(Exception):
    """The case does not fit the code any more."""


async def measured(case: Case, measure: Callable[[Call], Awaitable[Figure]]) -> Figure:
    """The figure of one case, of a gateway of its own. Raises CaseError."""
    with tempfile.TemporaryDirectory() as folder:
        gateway = MicroGateway(Path(folder))
        try:
            call = await prepared(case, gateway)
            gc.collect()
            gc.disable()  # a collection would be measured with whatever it met
            figure = await measure(call)
            if not gateway.answer.startswith(case.answer):
                raise CaseError(f"answered {gateway.answer[:60]!r}")
        finally:
            gc.enable()
            await gateway.close()
    return figure


async def prepared(case: Case, gateway: MicroGateway) -> Call:
    try:
        call = await case.prepare(gateway)
        call()
    except Exception as error:  # the code has changed in a way that nobody foresaw
        raise CaseError(f"{type(error).__name__}: {error}") from error
    if not gateway.answer.startswith(case.answer):
        raise CaseError(f"answered {gateway.answer[:60]!r}")
    return call
