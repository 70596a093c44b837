"""Who is in a cohort and who learns from whom: the conditions of one replicate."""

from itertools import combinations_with_replacement

from ctrlib.config import TOPOLOGIES
from ctrlib.study.conditions import Condition, Replicate, Runs, finetuned, mutual_finetuning, without_peers
from ctrlib.study.finetuning import lengths_of_finetuning, with_peers, without_peers_at_each_rate
from ctrlib.study.parameters import StudyParameters


def how_many_instances(r: Replicate) -> list[Condition]:
    """Claim 3: cohorts of growing size, the smaller ones inside the larger, fine-tuned at each weight of the peers."""
    conditions = []
    for size in r.p.sizes:
        names = [r.p.architecture] * size
        pretrained = r.pretraining(names)
        conditions += without_peers_at_each_rate(r, pretrained, instances=size)
        conditions += r.conditions({"solo from scratch": r.from_scratch(None, names)}, instances=size)
        for weight in r.p.mutual_weights:
            conditions += with_peers(r, pretrained, weight, instances=size)
    return conditions


def mixed_cohorts(p: StudyParameters) -> list[tuple[str, ...]]:
    """Every pair of architectures, like ones included, and the main architectures all together (where there is but one,
    it and its companions)."""
    every = list(dict.fromkeys([*p.architectures, *p.companions]))
    cohorts = [*combinations_with_replacement(every, 2), p.architectures if len(p.architectures) > 1 else every]
    return list(dict.fromkeys(tuple(cohort) for cohort in cohorts if len(cohort) > 1))


def mix_architectures(r: Replicate) -> list[Condition]:
    """Claims 4 to 6 as the first set of runs has them: the cohorts of :func:`mixed_cohorts` at the initial rate. The
    factor ``cohort`` names the architectures in the order of the members."""
    conditions = []
    for names in mixed_cohorts(r.p):
        found = finetuned(r.pretraining(names), r.coupling(size=len(names)), r.recipe())
        conditions += r.conditions(found, cohort=" + ".join(names), rate="lr")
    return conditions


def partner_matrix(r: Replicate) -> list[Condition]:
    """Claims 4 to 6: the cohorts of :func:`mixed_cohorts`, fine-tuned at the weight ``p.mutual_weight``, beside
    controls at each rate.

    In a pair the first is instance 0 of its architecture and the second instance 1, so that their checkpoints are
    those of the other experiments; the factor ``cohort`` names the architectures in the order of the members.
    """
    conditions = []
    for names in mixed_cohorts(r.p):
        pretrained, cohort = r.pretraining(names), " + ".join(names)
        conditions += without_peers_at_each_rate(r, pretrained, cohort=cohort)
        conditions += with_peers(r, pretrained, r.p.mutual_weight, cohort=cohort)
    return conditions


def what_is_exchanged(r: Replicate) -> list[Condition]:
    """Peers that differ in weights and batch order (the study's), in batch order only, and in nothing: before, after
    continued training, and after mutual fine-tuning of growing length."""
    usual = [r.member(slot, r.p.architecture) for slot in range(r.p.instances)]
    kinds = {
        "weights and order": usual,
        "order": [one.model_copy(update={"init_seed": usual[0].init_seed}) for one in usual],
        "nothing": [usual[0]] * r.p.instances,
    }
    conditions = []
    for kind, members in kinds.items():
        conditions += lengths_of_finetuning(r, r.alone(members, r.p.epochs), **{"differ in": kind})
    return conditions


def own_or_shared_embeddings(r: Replicate) -> list[Condition]:
    """Members with separate embedding tables (the paper) or one table for all (EKTF, UniDot), from scratch; ``solo``
    with a shared table is a cohort whose coupling never begins, so that the table is all that it shares.

    ``EKTF`` is that system's coupling at the weight of the others: peers weigh by their accuracy, and the mean of all
    members teaches beside them. At weight 1 it is EKTF's own (:func:`ctrlib.coupling.peer_loss`)."""
    coupling, never = r.coupling(), r.coupling(start=1.0)
    ektf = r.coupling(peer_weighting="adaptive", teacher_weight=r.p.mutual_weight)
    found = [
        ("solo", "separate", r.from_scratch(None)),
        ("mutual", "separate", r.from_scratch(coupling)),
        ("solo", "shared", sharing(r.from_scratch(never))),
        ("mutual", "shared", sharing(r.from_scratch(coupling))),
        ("EKTF", "separate", r.from_scratch(ektf)),
        ("EKTF", "shared", sharing(r.from_scratch(ektf))),
    ]
    return [one for name, kind, runs in found for one in r.conditions({name: runs}, embeddings=kind)]


def sharing(runs: Runs) -> Runs:
    """The same runs with one embedding table for all members."""
    return [run.model_copy(update={"embeddings": "shared"}) for run in runs]


def who_listens_to_whom(r: Replicate) -> list[Condition]:
    """The coupling matrix as the object of study: every topology at the same total weight for each student."""
    pretrained = r.pretraining()
    conditions = r.conditions(without_peers(pretrained, r.recipe()))
    for topology in r.p.topologies:
        coupling = r.coupling(TOPOLOGIES[topology](r.p.instances, r.p.mutual_weight))
        found = {"mutual": mutual_finetuning(pretrained, coupling, r.recipe())}
        conditions += r.conditions(found, topology=topology)
    return conditions
