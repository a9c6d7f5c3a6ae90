"""Rasters: grids, bands, scenes and their readers, valid masks, and the writer of products."""
