"""Figures, one file each. The only importers of matplotlib; a table or a page needs none."""
