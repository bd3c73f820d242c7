"""`python -m fluxflow_exp.data.check`."""

import sys

from fluxflow_exp.data.check.command import cli

if __name__ == "__main__":
    sys.exit(cli())
