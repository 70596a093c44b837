"""TorchRec 1.8.0 through ``TrainPipelineBase``, on FBGEMM's table-batched embeddings.

Its own DeepFM has no first-order part and a dense one for numeric fields, so the model is put together here from its
parts. The tables are FBGEMM's dense ones under torch's Adam, since on a CPU its fused optimizers know no Adam. Unlike
ctrlib's: an id travels in a list of its own, with an offset beside it.
"""

import logging
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from benchmarks import sizes
from benchmarks.table import Table


def fit(architecture: str, table: Table, batch: int, device: str) -> nn.Module:
    """One epoch; see :mod:`benchmarks.peers`."""
    logging.disable()
    from torchrec.distributed.train_pipeline import TrainPipelineBase

    model = make_model(table.field_dims)
    optimizer = torch.optim.Adam(model.parameters(), lr=sizes.LEARNING_RATE)
    pipeline, rows = TrainPipelineBase(model, optimizer, torch.device(device)), batches(table, batch)
    for _ in range(-(-len(table.labels) // batch)):
        pipeline.progress(rows)
    return model


def make_model(field_dims: tuple[int, ...]) -> nn.Module:
    """DeepFM that takes a batch and returns its loss and logits (B,), as the pipeline wants it."""
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import DenseTableBatchedEmbeddingBagsCodegen
    from torchrec.modules import deepfm
    from torchrec.modules.mlp import MLP

    class DeepFM(nn.Module):
        """Factorization machine with first-order part, and an MLP."""

        def __init__(self) -> None:
            super().__init__()
            self.embedding = tables(sizes.EMBEDDING)
            self.first_order = tables(1)
            self.fm = deepfm.FactorizationMachine()
            mlp = MLP(len(field_dims) * sizes.EMBEDDING, list(sizes.HIDDEN))
            self.deep = deepfm.DeepFM(nn.Sequential(mlp, nn.Linear(sizes.HIDDEN[-1], 1)))

        def forward(self, rows) -> tuple[torch.Tensor, torch.Tensor]:
            """TorchRec's batch -> loss, logits."""
            ids, offsets = rows.sparse_features.values(), rows.sparse_features.offsets()
            embeddings = [self.embedding(ids, offsets).view(-1, len(field_dims), sizes.EMBEDDING)]
            logits = self.first_order(ids, offsets).sum(1, keepdim=True) + self.fm(embeddings) + self.deep(embeddings)
            return nn.functional.binary_cross_entropy_with_logits(logits[:, 0], rows.labels), logits[:, 0]

    def tables(width: int) -> nn.Module:
        made = DenseTableBatchedEmbeddingBagsCodegen([(codes, width) for codes in field_dims], use_cpu=True)
        nn.init.normal_(made.weights, std=1e-4)
        return made

    return DeepFM()


def batches(table: Table, batch: int) -> Iterator:
    """The rows in random order as TorchRec's batches: the ids field by field, one in each list."""
    from torchrec import KeyedJaggedTensor
    from torchrec.datasets.utils import Batch

    names = [f"f{f}" for f in range(len(table.field_dims))]
    order = np.random.default_rng(0).permutation(len(table.labels))
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        ids = torch.from_numpy(table.ids[chosen].T.astype(np.int64).ravel())
        labels = torch.from_numpy(table.labels[chosen].astype(np.float32))
        lists = KeyedJaggedTensor(names, ids, lengths=torch.ones(len(ids), dtype=torch.int32))
        yield Batch(torch.empty(len(chosen), 0), lists, labels)
