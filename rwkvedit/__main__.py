"""``python -m rwkvedit``."""

import sys

from rwkvedit.cli import main

sys.exit(main())
