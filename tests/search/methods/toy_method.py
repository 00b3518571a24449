"""A method in one file: halve or double the learning rate while that helps."""

from dataclasses import dataclass
from typing import ClassVar

from mmfixnorm.search._utils import checks
from mmfixnorm.search.methods.base import Method, PlannedStage, Point, Replay, Spec, StageKind, make_stage
from mmfixnorm.search.settings import SearchSettings


@dataclass(frozen=True)
class ToySearch(SearchSettings):
    kind: ClassVar[str] = 'ToySearch'

    start: float = 0.8
    steps: int = 3

    def __post_init__(self):
        super().__post_init__()
        checks.positive('start', self.start)
        checks.integer('steps', self.steps, at_least=1)

    @property
    def alpha_keys(self):
        return ()

    @property
    def fractions(self):
        return (1.0,)


def replay(settings, finished, proposed):
    lr, stages = settings.start, []
    for step in range(settings.steps):
        specs = [
            Spec(f'step{step}-{name}', f'step {step}', Point(lr * factor), 1.0)
            for name, factor in (('down', 0.5), ('up', 2.0))
        ]
        stages.append(make_stage(f'step {step}', StageKind.LR, specs, finished, settings.rule))
        if stages[-1].missing:
            return Replay(tuple(stages))
        if stages[-1].best is None:
            return Replay(tuple(stages), stuck='both steps diverged')
        lr = stages[-1].best.point.lr
    best = max((stage.best for stage in stages), key=lambda b: b.value)
    return Replay(tuple(stages), best, finished=True)


def planned_stages(settings):
    return [PlannedStage(f'step {step}', 2, 1.0) for step in range(settings.steps)]


METHOD = Method(ToySearch, replay, planned_stages)
