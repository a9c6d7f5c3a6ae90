"""Where tiles and windows lie, and in which split."""
