#!/usr/bin/env python
"""``mmfixnorm test``: test a checkpoint."""

import sys

from mmfixnorm.cli.evaluate import main

if __name__ == '__main__':
    sys.exit(main())
