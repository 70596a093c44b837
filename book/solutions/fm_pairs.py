"""The factorization machine's sum over pairs, as a double loop and as the formula that needs no pairs."""

import torch

from ctrlib.models.layers import second_order_fm


def over_pairs(feature_emb):
    """Sum of the inner products of all pairs of fields: (B, F, D) to (B,)."""
    fields = feature_emb.shape[1]
    total = torch.zeros(len(feature_emb), dtype=feature_emb.dtype)
    for f in range(fields):
        for g in range(f + 1, fields):
            total += (feature_emb[:, f] * feature_emb[:, g]).sum(dim=1)
    return total


def over_fields(feature_emb):
    """The same by the formula over fields, without a loop over pairs."""
    # each pair stands twice in the square of the sum, and each field once with itself
    square_of_sum = feature_emb.sum(dim=1).square().sum(dim=1)
    sum_of_squares = feature_emb.square().sum(dim=(1, 2))
    return (square_of_sum - sum_of_squares) / 2


torch.manual_seed(0)
feature_emb = torch.randn(32, 10, 8, dtype=torch.float64)  # B, F, D

torch.testing.assert_close(over_fields(feature_emb), over_pairs(feature_emb))
torch.testing.assert_close(second_order_fm(feature_emb), over_pairs(feature_emb))
