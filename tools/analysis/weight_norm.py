#!/usr/bin/env python
"""``mmfixnorm analyze weight-norm``: Fig. 1 left."""

import sys

from mmfixnorm.cli.analyze.weight_norm import main

if __name__ == '__main__':
    sys.exit(main())
