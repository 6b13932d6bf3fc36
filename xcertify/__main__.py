"""``python -m xcertify`` is the command ``xcertify``."""

import sys

from xcertify.commands import main

sys.exit(main())
