"""The frozen text encoder on actors of its own: `resources.text`.

As many as `max_actors`, all loaded before training begins. Ray starts one that died anew, on another machine where it must, and asks it again what
it had not answered; an answer that was lost with its machine is asked for once more here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayActorError

from ccray.config import Recipe
from ccray.interfaces import Failed
from ccray.sharded.pipeline import device_of, threads_of
from ccray.sharded.progress import say
from ccray.sharded.working import reason_of
from ccray.training.distant import Answer, TextFacts, TextHost

DEATHS = 3  # over one question, before it is held against its captions; those of announced machines do not count
LOSSES = 3


class Asking:
    """`training.distant.Ask` from any process: the actors in turn."""

    def __init__(self, actors: list[Any], facts: TextFacts) -> None:
        """actors: handles of `TextHost`."""
        self.facts = facts
        self._actors = actors
        self._next = 0

    def __call__(self, texts: list[str]) -> "Question":
        self._next += 1
        return Question(self._actors[self._next % len(self._actors)], texts)

    def from_place(self, number: int) -> "Asking":
        """The same, beginning with another actor: ranks that ask at the same time should not ask the same one."""
        asking = Asking(self._actors, self.facts)
        asking._next = number
        return asking


class Question:
    """One question under way; called, it waits for the answer."""

    def __init__(self, actor: Any, texts: list[str]) -> None:
        self._actor, self._texts = actor, texts
        self._reference: Any = actor.encode.remote(texts)
        self._answer: Answer | None = None

    def __call__(self) -> Answer:
        """Raises:
        Failed: when the actor died over these captions again and again, or answers are lost one after the other.
        """
        losses = 0
        while self._answer is None:
            try:
                self._answer = ray.get(self._reference)
            except ObjectLostError:
                losses += 1
                if losses > LOSSES:
                    raise Failed(f"features of {len(self._texts)} captions were lost {losses} times with the machines that held them") from None
                self._reference = self._actor.encode.remote(self._texts)
            except RayActorError as error:
                raise Failed(f"the text encoder (resources.text) died over {self._texts[0]!r} and what came with it: {reason_of(error)}") from error
        self._reference = None
        return self._answer


@contextmanager
def text_actors(recipe: Recipe) -> Iterator[Asking | None]:
    """The recipe's text encoder on its own actors while the body runs; None where it is to be on the trainers.

    Raises:
        Failed: when it cannot be loaded there.
    """
    pool = recipe.resources.text
    if pool is None:
        yield None
        return
    host: Any = ray.remote(TextHost).options(
        num_cpus=pool.cpus, num_gpus=pool.gpus, label_selector=pool.label_selector or None, max_restarts=-1, max_task_retries=DEATHS
    )
    actors = [host.remote(recipe, device_of(pool), threads_of(pool)) for _ in range(pool.max_actors)]
    try:
        say(f"train: the text encoder on {len(actors)} actor{'s' * (len(actors) != 1)} of its own")
        try:
            facts = ray.get([actor.facts.remote() for actor in actors])[0]
        except (RayActorError, ray.exceptions.RayTaskError) as error:
            raise Failed(f"the text encoder did not start on its own actors (resources.text): {reason_of(error)}") from error
        yield Asking(actors, facts)
    finally:
        for actor in actors:
            ray.kill(actor)
