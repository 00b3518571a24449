"""The paper's figures from runs of one's own: work dirs of trainings and records of searches.

- :mod:`.runs`: the scalars that a training leaves in its work dir;
- :mod:`.groups`: runs by label, several seeds of one method as a mean with a band;
- :mod:`.studies`: the record of a search, read without its config;
- :mod:`.curves`, :mod:`.grid`, :mod:`.search_progress`: the figures, computed from those numbers;
- :mod:`.parts`, :mod:`.independence`: what is said about them;
- :mod:`.command`: what the scripts in ``tools/analysis`` share.

:mod:`mmfixnorm.plot` draws them.

Nothing here builds a model: a figure is made of what was logged.
"""

try:
    import matplotlib  # noqa: F401
    import scipy  # noqa: F401
except ImportError as err:
    raise ImportError('mmfixnorm.analysis needs matplotlib and scipy: pip install "mmfixnorm[analysis]"') from err
