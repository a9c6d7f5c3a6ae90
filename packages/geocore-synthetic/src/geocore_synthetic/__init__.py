"""Seeded random fields, textures and noise from which samples with exact truth are built."""
