"""The report of runs: one page that opens from disk, its figures, and the rows behind them."""
