#!/usr/bin/env python
"""``mmfixnorm analyze accuracy``: Fig. 1 right and Fig. 2 left."""

import sys

from mmfixnorm.cli.analyze.accuracy import main

if __name__ == '__main__':
    sys.exit(main())
