"""The sub-commands of ``ctrlib``, one file a group; :mod:`ctrlib.cli` puts them together."""
