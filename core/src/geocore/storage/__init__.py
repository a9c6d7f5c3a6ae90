"""Files that are whole or not there, and text of any origin, read within bounds."""
