"""``python -m mmfixnorm``, the same as ``mmfixnorm``."""

import sys

from mmfixnorm.cli import main

if __name__ == '__main__':
    sys.exit(main())
