#!/usr/bin/env python
"""``mmfixnorm search``: tune learning rate and alpha."""

import sys

from mmfixnorm.cli.search import main

if __name__ == '__main__':
    sys.exit(main())
