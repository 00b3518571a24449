#!/usr/bin/env python
"""``mmfixnorm fold``: fold a checkpoint into plain layers."""

import sys

from mmfixnorm.cli.fold import main

if __name__ == '__main__':
    sys.exit(main())
