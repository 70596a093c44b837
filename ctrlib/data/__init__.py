"""Rows: made, read from files, fetched, encoded, kept on disk."""
