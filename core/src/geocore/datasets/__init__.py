"""Data sets: what preparation hands over, and what training reads of it."""
