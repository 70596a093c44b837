"""Notebooks planned, trained for and executed."""
