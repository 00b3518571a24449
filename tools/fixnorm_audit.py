#!/usr/bin/env python
"""``mmfixnorm audit``: measure which weights of a model are scale-invariant."""

import sys

from mmfixnorm.cli.audit import main

if __name__ == '__main__':
    sys.exit(main())
