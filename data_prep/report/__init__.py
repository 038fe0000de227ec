"""The report of a prepared folder: one page that opens from disk; and what all pages of the project share."""
