"""Layouts of raw files: from a file to numbered cells and what they mean."""
