"""Data sets that others have published: download, verify, unpack, prepare."""
