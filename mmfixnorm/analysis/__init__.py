"""The paper's figures from your own runs: work dirs of trainings and records of searches.

- :mod:`.runs`: the scalars in the work dir of a training;
- :mod:`.groups`: runs by label, several seeds of one method as a mean with a band;
- :mod:`.curves`, :mod:`.grid`, :mod:`.search_progress`: the figures, computed from those numbers;
- :mod:`.parts`, :mod:`.independence`: the statements about them;
- :mod:`.command`: the common code of the scripts in ``tools/analysis``.

:mod:`mmfixnorm.plot` draws them. No model is built: a figure shows logged numbers only.
"""

try:
    import matplotlib  # noqa: F401
    import scipy  # noqa: F401
except ImportError as err:
    raise ImportError('mmfixnorm.analysis needs matplotlib and scipy: pip install "mmfixnorm[analysis]"') from err
