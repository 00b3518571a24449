#!/usr/bin/env python
"""``mmfixnorm lr-range``: measure the learning rates worth a search."""

import sys

from mmfixnorm.cli.lr_range import main

if __name__ == '__main__':
    sys.exit(main())
