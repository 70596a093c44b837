"""Who is in a cohort and who learns from whom: the conditions of one replicate."""

from itertools import combinations_with_replacement

from ctrlib.study.conditions import Condition, Replicate
from ctrlib.study.finetuning import with_peers, without_peers_at_each_rate
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
