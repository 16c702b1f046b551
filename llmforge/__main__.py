"""`python -m llmforge`, for a plain checkout."""

import sys

from llmforge.cli import main

sys.exit(main())
