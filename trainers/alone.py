"""One training a folder: rank 0 holds it from the plan to the seal, and tells the other ranks if it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from schemas.card import Card, Plan
from schemas.errors import VtokError
from trainers.engine import EngineName, start
from trainers.ranks import gather, rank, world_size
from vtok import artefacts
from vtok.locks import exclusive


@contextmanager
def alone(folder: Path, plan: Plan, engine: EngineName) -> Iterator[Card | None]:
    """Keeps other trainings out of a folder while the block runs. Called on every rank.

    Args:
        folder: of the artefact; its plan is written, or compared (`vtok.artefacts.begin`).
        plan: the plan.
        engine: through which several ranks find each other.

    Yields:
        the card of an artefact that is complete already; None: it is to be made.

    Raises:
        UsageError: another training is at work in the folder, or it holds something else; on all ranks.
        VtokError: the folder cannot be used; on all ranks.
    """
    if world_size() > 1:
        start(engine)
    with ExitStack() as held:
        card: Card | None = None
        problem: VtokError | None = None
        if rank() == 0:
            try:
                held.enter_context(exclusive(folder))
                card = artefacts.begin(folder, plan)
            except VtokError as error:
                problem = error
        card, problem = gather((card, problem))[0]
        if problem is not None:
            raise problem
        yield card
