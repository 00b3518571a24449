"""Trainings that need not be begun: another one, at another alpha, is the same up to a checkpoint.

Trainings that differ in alpha alone are one training until ``g`` meets the smaller of their bounds. So a trial keeps,
for each alpha that may follow, its newest checkpoint before that (:mod:`mmfixnorm.search.trial.forks`), and a later
trial continues from there; only the rest is trained, and only the rest costs. Value, curve, weights and log are as if
it had been trained from its start.

That holds where a training that continues repeats to the last bit: with a seed, one process, and a config for which
:func:`.exact_resume.why_not_exact` finds nothing; on a GPU, with ``randomness.deterministic``. Elsewhere nothing is
continued, and the driver says why. A trial compares its first loss with that of the training that it continues; if the
two differ in a bit, it begins anew, and nothing in the search is continued any more.

What is kept is deleted once no training of the search can continue from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from mmfixnorm.search.methods.base import Replay, Spec
from mmfixnorm.search.planner import stages_of_method
from mmfixnorm.search.problem import SearchProblem
from mmfixnorm.search.record.exact_resume import why_not_exact
from mmfixnorm.search.record.same_training import ButAlpha, KnownTrainings
from mmfixnorm.search.record.study import Attempt, is_finished
from mmfixnorm.search.trial.forks import (
    ForkPoint,
    delete_kept,
    delete_start,
    give_start,
    has_begun,
    is_below,
    kept_points,
    may_be_given_start,
)


class Forks:
    """Which training continues which other one of a search.

    Args:
        problem (SearchProblem): With ``search.fork=False`` none does.
        known (KnownTrainings): Says which trainings differ in alpha alone.
        fingerprint (str): Of the search.
        attempts (Iterable[Attempt]): What has ended so far.
    """

    def __init__(
        self, problem: SearchProblem, known: KnownTrainings, fingerprint: str, attempts: Iterable[Attempt]
    ) -> None:
        self._problem = problem
        self._known = known
        self._fingerprint = fingerprint
        self._alphas = tuple(sorted({*(getattr(problem.settings, 'alphas', None) or ())}))
        self._why_not = ''
        self._is_told = False
        self._ended: dict[ButAlpha, list[Attempt]] = {}
        self._with_files = {path.parent.name for path in problem.trials_dir.glob('*/fork*/')}
        self._finished: dict[str, Spec] = {}
        self._may_follow: dict[ButAlpha, set[float | None]] = {}
        self._growing: set[float] = set()
        for attempt in attempts:
            self.add(attempt)

    def add(self, attempt: Attempt) -> None:
        """Take in an attempt that has ended."""
        self._why_not = self._why_not or attempt.result.why_no_forks
        config = self._known.but_alpha(attempt.spec)
        if config is not None and not attempt.result.same_as:
            self._ended.setdefault(config, []).append(attempt)
        if is_finished(attempt):
            self._finished[attempt.spec.key] = attempt.spec
        if attempt.result.fork_points or attempt.result.forked_from:
            self._with_files.add(attempt.spec.key)  # also of a trial that an earlier driver has started

    @cached_property
    def _why_never(self) -> str:
        """Why no training of this search can continue another one; empty if there is no reason."""
        processes = self._problem.settings.executor_settings.processes
        if processes > 1:
            return f'search.executor.gpus_per_trial is {processes}'
        if (self._problem.accumulative_counts or 1) > 1:
            return 'search.keep_total_batch: gradients that are accumulated are not in checkpoints'
        return why_not_exact(self._problem.cfg)

    @property
    def _is_on(self) -> bool:
        return self._problem.settings.fork and not self._why_not and not self._why_never

    def follow(self, replayed: Replay) -> None:
        """Take in how far the search is: which trainings may still be asked for, and delete what none needs."""
        # A closed stage grows no more, the present one up to what is planned; new seeds are another training's.
        closed, last = {stage.name for stage in replayed.stages[:-1]}, replayed.stages[-1:]
        complete = {(stage.name, len(stage.specs)) for stage in last}
        planned = stages_of_method(self._problem.settings)
        self._growing = {
            stage.fraction
            for stage in planned
            if stage.name not in closed and (stage.name, stage.trainings) not in complete
        }
        self._may_follow = {}
        for spec in replayed.stages[-1].missing if replayed.stages else ():
            config = self._known.but_alpha(spec)
            if config is not None:
                self._may_follow.setdefault(config, set()).add(spec.point.alpha)
        is_over = replayed.finished or bool(replayed.stuck)
        for key in [key for key in self._with_files if key in self._finished]:
            delete_start(self._problem.trial_dir(key))
            if is_over or not self._may_be_continued(self._finished[key]):
                delete_kept(self._problem.trial_dir(key))
                self._with_files.discard(key)

    def alphas_after(self, spec: Spec) -> tuple[float, ...]:
        """Return the alphas at which a training may continue this one, for its task."""
        if not self._is_on or spec.point.alpha is None or not self._may_be_continued(spec):
            return ()
        return tuple(alpha for alpha in self._alphas if alpha != spec.point.alpha)

    def begin(self, spec: Spec, running: Iterable[Spec]) -> str:
        """Let a trial that is about to be submitted continue another one, if there is one; return what to tell, or ''.

        Args:
            spec (Spec): The trial; its folder is there.
            running (Iterable[Spec]): The trials that run.
        """
        self._with_files.add(spec.key)
        config, trial_dir = self._known.but_alpha(spec), self._problem.trial_dir(spec.key)
        if not self._problem.settings.fork and not has_begun(trial_dir):
            delete_start(trial_dir)  # given by a driver that was to fork
        if config is None or not self._problem.settings.fork or not may_be_given_start(trial_dir):
            return ''
        ended = [a for a in self._ended.get(config, ()) if a.spec.point.alpha != spec.point.alpha]
        if not self._is_on:
            return self._why_off() if ended else ''
        parents = {s.key: s for s in [*(a.spec for a in ended), *running] if self._known.but_alpha(s) == config}
        while point := self._latest_point(spec, parents.values()):
            if give_start(trial_dir, self._problem.trial_dir(point.key), point):
                return f'{spec.key} continues {point.key} from iteration {point.iteration}'
            del parents[point.key]
        gone = [a.spec.key for a in ended if _has_kept_for(a, spec)]
        return f'{spec.key} is trained from the start: the checkpoints of {gone[0]} are gone' if gone else ''

    def _latest_point(self, spec: Spec, parents: Iterable[Spec]) -> ForkPoint | None:
        points = [
            point
            for parent in parents
            for point in kept_points(self._problem.trial_dir(parent.key))
            if (point.key, point.fingerprint) == (parent.key, self._fingerprint)
            and is_below(point.largest_scale, (spec.point.alpha, parent.point.alpha))
        ]
        return max(points, key=lambda point: point.iteration, default=None)

    def _may_be_continued(self, spec: Spec) -> bool:
        """Return whether a training that is not done may differ from this one in alpha alone."""
        config = self._known.but_alpha(spec)
        if config is None:
            return False
        return bool(self._may_follow.get(config, set()) - {spec.point.alpha}) or spec.fraction in self._growing

    def _why_off(self) -> str:
        if self._is_told:
            return ''
        self._is_told = True
        return f'no training continues another one (search.fork): {self._why_not or self._why_never}'


def _has_kept_for(attempt: Attempt, spec: Spec) -> bool:
    alphas = spec.point.alpha, attempt.spec.point.alpha
    return any(is_below(scale, alphas) for _, scale in attempt.result.fork_points)
