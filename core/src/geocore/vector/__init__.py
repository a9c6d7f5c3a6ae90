"""Outlines: read, traced from rasters, burnt onto them, measured and written."""
