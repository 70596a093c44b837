"""The mutual trainer: a cohort of models, one step, one loop; with what they train on and how it is judged."""
