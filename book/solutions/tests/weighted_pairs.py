import torch

model = WeightedPairs([7, 5, 9], embedding_dim=4)
assert model(torch.tensor([[0, 1, 2], [6, 4, 8]])).shape == (2,)
