"""`python -m perfxlm.entrypoints.openai.api_server`: the same as `perfxlm serve`."""

import sys

from perfxlm_core.cli.serve import main

if __name__ == "__main__":
    sys.exit(main("api_server"))
