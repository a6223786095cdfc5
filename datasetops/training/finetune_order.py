"""Which images a step learns from: a function of the recipe's seed and the step's number alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from datasetops.training.finetune_data import Example
from datasetops.training.finetune_team import Team
from datasetops.training.recipe import FinetuneRecipe


class Order:
    """The share of one worker of a team. `steps`: of an epoch, the last one of which may have fewer images."""

    def __init__(self, recipe: FinetuneRecipe, examples: Sequence[Example], team: Team) -> None:
        self._recipe, self._examples, self._team = recipe, examples, team
        self.steps = -(-len(examples) // recipe.batch)

    def places(self, step: int) -> range:
        """Places in its epoch's order that a step looks at."""
        first = step % self.steps * self._recipe.batch
        last = min(first + self._recipe.batch, len(self._examples))
        return range(first + self._team.rank, last, self._team.size)

    def tasks(self, steps: range) -> Iterator[tuple[Example, int, int]]:
        """Examples of these steps, each with its epoch and its place in it."""
        order: list[Example] = []
        known = -1
        for step in steps:
            epoch = step // self.steps
            if epoch != known:
                order, known = self._epoch(epoch), epoch
            for place in self.places(step):
                yield order[place], epoch, place

    def _epoch(self, epoch: int) -> list[Example]:
        count = len(self._examples)
        rng = np.random.default_rng([self._recipe.seed, epoch])
        if self._recipe.sampling == "balanced":
            chances = np.array([one.rarity for one in self._examples])
            chosen = rng.choice(count, count, p=chances / chances.sum())
        else:
            chosen = rng.permutation(count)
        return [self._examples[number] for number in chosen.tolist()]
