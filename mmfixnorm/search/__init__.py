"""Tuned FixNorm (Algorithm 4) and other searches over any config with a ``search`` block.

The parts, in the order in which a search uses them:

- :mod:`.settings`: the ``search`` block as checked, frozen data;
- :mod:`.problem`: settings, config, data and work dir of one search, checked before anything runs;
- :mod:`.imports`: whether a trial will find what the config imports, asked in another process;
- :mod:`.planner`: which trainings come next, a pure function of settings and history;
- :mod:`.unimodal`, :mod:`.grids`, :mod:`.random_points`, :mod:`.halving`, :mod:`.bayesian`: the methods besides
  Algorithm 4; :mod:`.confirm`: winner and runner-up over new seeds;
- :mod:`.schedule`: a config whose whole schedule is shorter;
- :mod:`.executor`: runs trials as processes, knows nothing of rounds or learning rates;
- :mod:`.executor_slurm`, :mod:`.executor_ray`, :mod:`.executor_manual`: run them elsewhere;
- :mod:`.trial`: one training, the program inside such a process;
- :mod:`.study`: the record, one Optuna study in sqlite with one writer;
- :mod:`.driver`: the loop plan, submit, poll, record; :mod:`.task` and :mod:`.weights` are what it does
  in a trial's folder;
- :mod:`.report`: tables and figures of a record.

Nothing here imports model code: a search knows configs, processes and numbers.
"""
