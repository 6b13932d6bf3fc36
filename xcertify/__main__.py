"""``python -m xcertify`` is the command ``xcertify``."""

import sys

from xcertify.cli import main

sys.exit(main())
