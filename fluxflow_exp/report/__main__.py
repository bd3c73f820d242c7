"""`python -m fluxflow_exp.report`."""

import sys

from fluxflow_exp.report.command import cli

if __name__ == "__main__":
    sys.exit(cli())
