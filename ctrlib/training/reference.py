"""A mutual trainer in which nothing is hidden, not even Adam, to read and to compare :mod:`ctrlib.training.loop` with.

It has the paper's loss alone: live, detached peers, each from all others. No dropout, no schedule, no speed.
Legend: K models, B batch, N rows, F fields.
"""

import torch

from ctrlib.config import derive_seed


def click_loss(p, y):
    """Binary cross-entropy of probabilities p (B,) for clicks y (B,)."""
    return -(y * p.log() + (1 - y) * (1 - p).log()).mean()


def peer_loss(p, n):
    """Mean squared difference between the predictions of model n and those of its peers, which are held constant."""
    distances = [((p[n] - peer.detach()) ** 2).mean() for i, peer in enumerate(p) if i != n]
    return sum(distances) / max(1, len(distances))


def adam_step(model, moments, step, rate):
    """One step of Adam with the usual decays; gradients longer than 10 are shortened to 10."""
    norm = sum(weight.grad.square().sum() for weight in model.parameters()).sqrt().item()
    for weight, (mean, square) in zip(model.parameters(), moments, strict=True):
        gradient = weight.grad * min(1.0, 10.0 / norm)
        mean += 0.1 * (gradient - mean)
        square += 0.001 * (gradient**2 - square)
        weight -= rate * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)


def train_by_hand(models, ids, labels, order_seed, epochs, peer_weight, rate, batch_size):
    """Train K models on the same batches of ids (N, F) and labels (N,).

    Returns a row for each step: its number, K click losses, K peer losses, spread of the K predictions.
    """
    moments = [[(torch.zeros_like(w), torch.zeros_like(w)) for w in model.parameters()] for model in models]
    log = []
    for epoch in range(epochs):
        shuffle = torch.Generator().manual_seed(derive_seed(order_seed, "order", epoch))  # the rule of ctrlib's trainer
        for batch in torch.randperm(len(labels), generator=shuffle).split(batch_size):
            p = [torch.sigmoid(model(ids[batch])) for model in models]
            click = torch.stack([click_loss(one, labels[batch]) for one in p])
            peer = torch.stack([peer_weight * torch.as_tensor(peer_loss(p, n)) for n in range(len(p))])
            for model in models:
                model.zero_grad()
            (click + peer).sum().backward()
            spread = torch.stack(p).detach().std(dim=0, correction=0).mean()
            log.append([len(log) + 1, *click.tolist(), *peer.tolist(), spread.item()])
            for model, memory in zip(models, moments, strict=True):
                torch.no_grad()(adam_step)(model, memory, len(log), rate)
    return log
