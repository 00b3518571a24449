#!/usr/bin/env python
"""``mmfixnorm convert``: write a FixNorm config for a plain one."""

import sys

from mmfixnorm.cli.convert import main

if __name__ == '__main__':
    sys.exit(main())
