"""What people look at: the report of a run, previews and overviews of data sets."""
