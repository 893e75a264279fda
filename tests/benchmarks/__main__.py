"""`python -m tests.benchmarks`: processes of their own do not import it again."""

import sys

if __name__ == "__main__":
    from tests.benchmarks.run import main

    sys.exit(main())
