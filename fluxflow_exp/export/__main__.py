"""`python -m fluxflow_exp.export`."""

import sys

from fluxflow_exp.export.command import cli

if __name__ == "__main__":
    sys.exit(cli())
