#!/usr/bin/env python
"""``mmfixnorm analyze search-progress``: Fig. 5."""

import sys

from mmfixnorm.cli.analyze.search_progress import main

if __name__ == '__main__':
    sys.exit(main())
