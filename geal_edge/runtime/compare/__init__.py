"""What a budget buys, on recorded drives, before anything ships (`geal-edge compare`).

    sources -> stored features -> pools (pools.py) -> cells: a strategy's choice and its cover (cells.py) -> Comparison
               one process a drive                   one process a cell

comparison.py goes this way; strategies.py says what is compared, simulate.py what a vehicle would have done, cover.py what is
measured, table.py how it is told.
"""
