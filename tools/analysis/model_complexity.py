#!/usr/bin/env python
"""``mmfixnorm analyze model-complexity``: parameters and FLOPs of Table 2."""

import sys

from mmfixnorm.cli.analyze.model_complexity import main

if __name__ == '__main__':
    sys.exit(main())
