"""Playing a search against a formula, without trials, a record or a driver."""

import math

from mmfixnorm.search.methods.base import FinishedTraining
from mmfixnorm.search.planner import Propose, Run, plan, propose

LR, WEIGHT_DECAY = 0.53, 8.6e-5  # BO + WD of Table 1
RANGES = dict(lr_range=(0.2, 3.2), weight_decay_range=(1e-5, 5e-4))


def closed(spec, value):
    return FinishedTraining(spec.key, spec.point, value)


def hill(spec):
    """Unimodal in the logs of lr and weight decay; 0 at the top."""
    return -(math.log(spec.point.lr / LR) ** 2) - 0.5 * math.log(spec.point.weight_decay / WEIGHT_DECAY) ** 2


def play(settings, value_of=hill, *, first=()):
    """Run a search from a first history; return its trainings in order, their values and the last step."""
    history, asked, values = [*first], [], []
    while True:
        step = plan(settings, history)
        if isinstance(step, Propose):
            done = [h for h in history if isinstance(h, FinishedTraining)]
            history += propose(settings, done, step.keys)
        elif isinstance(step, Run):
            asked += step.specs
            values += [value_of(s) for s in step.specs]
            history += [closed(s, value_of(s)) for s in step.specs]
        else:
            return asked, values, step
