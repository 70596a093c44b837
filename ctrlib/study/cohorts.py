"""Who is in a cohort and who listens to whom: the arms of one group (seed) under one protocol."""

from itertools import combinations_with_replacement

from ctrlib.config import Protocol, Run
from ctrlib.coupling import TOPOLOGIES
from ctrlib.study.arms import (
    Arm,
    alone,
    continuation,
    from_scratch,
    group_coupling,
    group_settings,
    instances,
    member,
    mutual_finetuning,
    pretraining,
    recipe,
)
from ctrlib.study.parameters import StudyParameters


def how_many_instances(p: StudyParameters, seed: int, protocol: Protocol) -> list[Arm]:
    """Claim 3: groups of growing size, the smaller ones inside the larger, fine-tuned and from scratch."""
    names = [p.architecture] * max(p.sizes)
    pretrained = pretraining(p, seed, protocol, names)
    train = recipe(p, protocol, p.finetune_epochs)
    continued = continuation(pretrained, train)
    scratch = from_scratch(p, seed, protocol, names, None)
    arms = []
    for size in p.sizes:
        coupling = group_coupling(p, size)
        found = {
            "checkpoint": pretrained[:size],
            "solo": continued[:size],
            "mutual": mutual_finetuning(pretrained[:size], coupling, train),
            "solo from scratch": scratch[:size],
            "mutual from scratch": from_scratch(p, seed, protocol, names[:size], coupling),
        }
        factors = {"protocol": protocol, "instances": size}
        arms += [Arm(name, seed, tuple(runs), factors) for name, runs in found.items()]
    return arms


def mix_architectures(p: StudyParameters, seed: int, protocol: Protocol) -> list[Arm]:
    """Claim 4: every pair of architectures, like ones included, and the main architectures all together.

    In a pair the first is instance 0 of its architecture and the second instance 1, so that their checkpoints are
    those of the other experiments; the factor ``cohort`` names the architectures in the order of the members.
    """
    every = list(dict.fromkeys([*p.architectures, *p.companions]))
    data, long = group_settings(p, seed), recipe(p, protocol, p.epochs)
    train = recipe(p, protocol, p.finetune_epochs)
    cohorts = [*combinations_with_replacement(every, 2), p.architectures]
    arms = []
    for names in dict.fromkeys(tuple(cohort) for cohort in cohorts if len(cohort) > 1):
        members = [member(p, seed, slot, name, shared_order=False) for slot, name in enumerate(names)]
        pretrained = alone(data, members, long)
        found = {
            "checkpoint": pretrained,
            "solo": continuation(pretrained, train),
            "mutual": mutual_finetuning(pretrained, group_coupling(p, len(names)), train),
        }
        factors = {"protocol": protocol, "cohort": " + ".join(names)}
        arms += [Arm(name, seed, tuple(runs), factors) for name, runs in found.items()]
    return arms


def what_is_exchanged(p: StudyParameters, seed: int, protocol: Protocol) -> list[Arm]:
    """Peers that differ in weights and batch order (the study's), in batch order alone, and in nothing: before,
    after continuing alone, and after mutual fine-tuning of growing length."""
    data, long = group_settings(p, seed), recipe(p, protocol, p.epochs)
    usual = [member(p, seed, slot, p.architecture, shared_order=False) for slot in range(p.instances)]
    kinds = {
        "weights and order": usual,
        "order": [one.model_copy(update={"init_seed": usual[0].init_seed}) for one in usual],
        "nothing": [usual[0]] * p.instances,
    }
    arms = []
    for kind, members in kinds.items():
        pretrained = alone(data, members, long)
        factors = {"protocol": protocol, "differ in": kind}
        arms.append(Arm("checkpoint", seed, tuple(pretrained), {**factors, "epochs": 0}))
        for epochs in p.epoch_counts:
            train = recipe(p, "equal_epochs", epochs)
            coupling = group_coupling(p, p.instances)
            found = {"solo": continuation(pretrained, train), "mutual": mutual_finetuning(pretrained, coupling, train)}
            arms += [Arm(name, seed, tuple(runs), {**factors, "epochs": epochs}) for name, runs in found.items()]
    return arms


def own_or_shared_embeddings(p: StudyParameters, seed: int, protocol: Protocol) -> list[Arm]:
    """Members with their own embedding tables (the paper) or one table for all (EKTF, UniDot), from scratch; ``solo``
    with a shared table is a cohort whose coupling never begins, so that the table is all that it shares.

    ``EKTF`` is that system's coupling at the weight of the others: peers are heard by how well they do, and the mean of
    all members teaches beside them. At weight 1 it is EKTF's own (:func:`ctrlib.coupling.peer_loss`)."""
    names, factors = instances(p), {"protocol": protocol}
    coupling = group_coupling(p, p.instances)
    never = coupling.model_copy(update={"start": 1.0})
    ektf = group_coupling(p, p.instances, peer_weighting="adaptive", teacher_weight=p.mutual_weight)
    found = {
        ("solo", "own"): from_scratch(p, seed, protocol, names, None),
        ("mutual", "own"): from_scratch(p, seed, protocol, names, coupling),
        ("solo", "shared"): _sharing(from_scratch(p, seed, protocol, names, never)),
        ("mutual", "shared"): _sharing(from_scratch(p, seed, protocol, names, coupling)),
        ("EKTF", "own"): from_scratch(p, seed, protocol, names, ektf),
        ("EKTF", "shared"): _sharing(from_scratch(p, seed, protocol, names, ektf)),
    }
    return [Arm(name, seed, tuple(runs), {**factors, "embeddings": kind}) for (name, kind), runs in found.items()]


def _sharing(runs: list[Run]) -> list[Run]:
    return [run.model_copy(update={"embeddings": "shared"}) for run in runs]


def who_listens_to_whom(p: StudyParameters, seed: int, protocol: Protocol) -> list[Arm]:
    """The coupling matrix as the object of study: every topology at the same total weight for each listener."""
    pretrained = pretraining(p, seed, protocol, instances(p))
    train = recipe(p, protocol, p.finetune_epochs)
    factors = {"protocol": protocol}
    arms = [
        Arm("checkpoint", seed, tuple(pretrained), factors),
        Arm("solo", seed, tuple(continuation(pretrained, train)), factors),
    ]
    for topology in p.topologies:
        coupling = group_coupling(p, p.instances, TOPOLOGIES[topology](p.instances, p.mutual_weight))
        runs = mutual_finetuning(pretrained, coupling, train)
        arms.append(Arm("mutual", seed, tuple(runs), {**factors, "topology": topology}))
    return arms
