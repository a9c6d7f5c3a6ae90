"""Work that is cut into jobs, survives crashes and may be shared by many processes."""
