"""A model that needs no training: the click rate of each code, one field at a time, put together as log odds."""

import numpy as np

from ctrlib.config import SyntheticSettings
from ctrlib.data.synthetic import generate
from ctrlib.stats.metrics import auc, expected_auc

PRIOR = 20  # rows of the average click rate that each code starts with: rare codes say little


def log_odds(ids, labels, size):
    """Log odds of a click for each code of one field, minus those of all rows; PRIOR average rows come to each code."""
    base = labels.mean()
    rows = np.bincount(ids, minlength=size) + PRIOR
    clicks = np.bincount(ids, weights=labels, minlength=size) + PRIOR * base
    rate = clicks / rows
    return np.log(rate / (1 - rate)) - np.log(base / (1 - base))


def sum_over_fields(tables, ids):
    """Score of rows, a naive Bayes classifier: a table of log odds a field, ids (rows, F) to (rows,)."""
    return sum(table[ids[:, f]] for f, table in enumerate(tables))


dataset = generate(SyntheticSettings(train_rows=20_000, valid_rows=1000, test_rows=20_000))
train, test = dataset.train, dataset.test
tables = [log_odds(train.ids[:, f], train.labels, size) for f, size in enumerate(dataset.field_dims)]

on_test = auc(test.labels, sum_over_fields(tables, test.ids))
assert 0.55 < on_test < expected_auc(test.probability)  # better than guessing, short of what is reachable
assert auc(train.labels, sum_over_fields(tables, train.ids)) > on_test  # it has seen the training labels
