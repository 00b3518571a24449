#!/usr/bin/env python
"""``mmfixnorm analyze classifier-scale``: Fig. 2 right."""

import sys

from mmfixnorm.cli.analyze.classifier_scale import main

if __name__ == '__main__':
    sys.exit(main())
