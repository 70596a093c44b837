"""An architecture of your own: a factorization machine that weighs its pairs of fields (Pan et al. 2018, FwFM)."""

import torch
from torch import nn

from ctrlib.models.layers import FeatureEmbedding, FirstOrder


class WeightedPairs(nn.Module):
    """First-order weights plus ``sum over pairs of r_fg <e_f, e_g>`` with one learnt weight r for each pair."""

    def __init__(self, field_dims, embedding_dim=16, hidden_units=(), dropout=0.0, batch_norm=False):
        super().__init__()
        self.embedding = FeatureEmbedding(field_dims, embedding_dim)
        self.first_order = FirstOrder(field_dims)
        left, right = torch.triu_indices(len(field_dims), len(field_dims), offset=1)
        self.register_buffer("left", left, persistent=False)
        self.register_buffer("right", right, persistent=False)
        self.pair_weights = nn.Parameter(torch.ones(len(left)))  # ones: it starts as an FM

    def forward(self, ids):
        """Map ids (B, F) to logits (B,)."""
        feature_emb = self.embedding(ids)  # (B, F, D)
        products = (feature_emb[:, self.left] * feature_emb[:, self.right]).sum(dim=2)  # (B, P)
        return self.first_order(ids) + products @ self.pair_weights  # (B,)


torch.manual_seed(0)
dims = [7, 5, 9]
ids = torch.stack([torch.randint(dim, (64,)) for dim in dims], dim=1)
labels = (torch.rand(64) < 0.5).float()
model = WeightedPairs(dims, embedding_dim=8)
assert model(ids).shape == (64,)

optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
losses = []
for _ in range(300):
    loss = nn.functional.binary_cross_entropy_with_logits(model(ids), labels)
    optimizer.zero_grad()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    optimizer.step()
    losses.append(loss.item())
assert losses[-1] < losses[0] / 3  # it can learn a few rows nearly by heart
