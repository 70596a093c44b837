"""Where the excess log loss of models comes from, when the true click probability is known: bias, data, seeds.

The KL divergence between Bernoulli laws is a Bregman divergence, so it splits exactly around the mean *logit*: with
``q_d`` the probability at the mean logit over the seeds of draw d of the rows and ``q`` at the mean over all models,

    mean KL(p* || p_ds) = KL(p* || q) + mean_d KL(q || q_d) + mean_ds KL(q_d || p_ds)
                          bias          data variance         seed variance

(Gupta, Smith, Adlam and Mariet 2022, "Ensembles of classifiers: a bias-variance perspective", TMLR, arXiv 2206.10566:
the dual mean and its law of total variance). Around the mean probability it does not hold.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import entr, expit

from ctrlib.errors import UserError


@dataclass(frozen=True)
class Ledger:
    """The parts of the mean excess log loss of D x S models, in nats a row."""

    bias: float
    data_variance: float
    seed_variance: float
    draws: int
    seeds: int

    @property
    def excess(self) -> float:
        """The sum of the parts: mean KL divergence of the models from the truth."""
        return self.bias + self.data_variance + self.seed_variance

    def unlimited(self) -> "Ledger":
        """What the parts would be for any number of draws and seeds; they have the same sum.

        The mean of few models keeps a part of their variance, which then stands in the account before. To second order
        in the logits' deviations, as in the analysis of variance of a nested design, E[seed variance] = (1 - 1/S) s
        and E[data variance] = (1 - 1/D) (d + s/S), so s, d and the rest of the bias follow. A variance that is small
        beside its error can come out below zero.

        Raises:
            UserError: for one draw or one seed.
        """
        if self.draws < 2 or self.seeds < 2:
            raise UserError(f"{self.draws} draws of rows and {self.seeds} seeds; allowed: 2 or more of both")
        seed = self.seed_variance * self.seeds / (self.seeds - 1)
        between = self.data_variance / (self.draws - 1)
        data = self.draws * between - seed / self.seeds
        return Ledger(self.bias - between, data, seed, self.draws, self.seeds)


def ledger(truth: ArrayLike, logits: ArrayLike) -> Ledger:
    """The exact split of the mean excess log loss of models over draws of training rows and over seeds.

    Args:
        truth: true click probability of each row, in [0, 1], (N,).
        logits: (D, S, N), of S models trained on each of D draws of rows, all on the same N rows. The models of one
            draw must be independent, so of a coupled cohort one member counts.

    Raises:
        UserError: for other shapes, or values that are no numbers.
    """
    truth, logits = np.asarray(truth, dtype=np.float64), np.asarray(logits, dtype=np.float64)
    if logits.ndim != 3 or 0 in logits.shape or truth.shape != logits.shape[2:]:
        raise UserError(
            f"logits must be (draws, seeds, {truth.size}) as there are true probabilities, got {logits.shape}"
        )
    if not np.isfinite(logits).all() or not ((truth >= 0) & (truth <= 1)).all():
        raise UserError("logits must be finite numbers and true probabilities lie in [0, 1]")
    by_draw = logits.mean(axis=1)  # (D, N)
    overall = by_draw.mean(axis=0)
    data = np.mean([excess_logloss(expit(overall), one) for one in by_draw])
    seed = np.mean([excess_logloss(expit(m), one) for m, models in zip(by_draw, logits, strict=True) for one in models])
    return Ledger(excess_logloss(truth, overall), float(data), float(seed), *logits.shape[:2])


def excess_logloss(probability: np.ndarray, logits: np.ndarray) -> float:
    """KL(Bernoulli(probability) || Bernoulli(expit(logits))) in nats, averaged over rows: what predicting the logits
    costs beyond the probability itself, in expected log loss. Both (N,)."""
    entropy = entr(probability) + entr(1 - probability)
    return float((np.logaddexp(0, logits) - probability * logits - entropy).mean())
