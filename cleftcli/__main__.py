"""`python -m cleftcli` is the console script `cleft`."""

from cleftcli.cli import main

main()
