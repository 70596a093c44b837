"""The experiments: parameters, conditions, tables, verdicts, figures."""
