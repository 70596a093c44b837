"""Each run trained once, kept whole, checked before it is used."""
