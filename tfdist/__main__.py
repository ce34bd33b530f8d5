"""Runs a command: `python -m tfdist run program.py`, as the script `tfdist` does."""

from __future__ import annotations

import sys

from tfdist.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
