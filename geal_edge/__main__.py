"""`python -m geal_edge` is `geal-edge`."""

from geal_edge.cli.start import main

main()
