#!/usr/bin/env python
"""``mmfixnorm train``: train a model of any OpenMMLab toolbox."""

import sys

from mmfixnorm.cli.train import main

if __name__ == '__main__':
    sys.exit(main())
