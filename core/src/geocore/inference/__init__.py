"""Maps of scenes of any size."""
