#!/usr/bin/env python
"""``mmfixnorm analyze lr-alpha-grid``: Fig. 4."""

import sys

from mmfixnorm.cli.analyze.lr_alpha_grid import main

if __name__ == '__main__':
    sys.exit(main())
