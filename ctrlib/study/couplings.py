"""The paper's own first experiments, the weight of the peers from negative to strong, and other ways to couple: the
conditions of one replicate."""

from math import ceil

from ctrlib.config import TOPOLOGIES
from ctrlib.study.conditions import Condition, Replicate, Runs, changed, data_shape, mutual_finetuning
from ctrlib.study.controls import self_anchor
from ctrlib.study.finetuning import at_rate, rate_of, with_peers, without_peers_at_each_rate

PAPER_WEIGHTS = (1.0, 20.0)  # the paper's, and one whose gradient is near the clicks' (page 31)
LEARNED_TOP = "DCN"
"""With random embeddings: all that it makes of them goes through weights that it learns. The FM of a DeepFM has none,
and would add a fixed noise to the logit."""
SPREAD = 0.1  # of random embeddings, about that of learned ones


def paper_fibinet(r: Replicate) -> list[Condition]:
    """The first experiments of the paper: four FiBiNETs, and the same with the last one replaced by a DCN; alone and
    fine-tuned together at each of :data:`PAPER_WEIGHTS`."""
    conditions, like = [], ["FiBiNET"] * r.p.instances
    for names in (like, [*like[:-1], "DCN"]):
        pretrained, cohort = r.pretraining(names), " + ".join(dict.fromkeys(names))
        conditions += without_peers_at_each_rate(r, pretrained, cohort=cohort)
        for weight in PAPER_WEIGHTS:
            conditions += with_peers(r, pretrained, weight, cohort=cohort)
    return conditions


def weights(r: Replicate) -> list[Condition]:
    """The weight of the peers from negative to strong, fine-tuned and from scratch (``p.ways``). A negative one pushes
    a member away from its peers (Anti-Distillation, Shamir and Coviello 2020, arXiv 2010.09923)."""
    pretrained = r.pretraining()
    conditions = without_peers_at_each_rate(r, pretrained)
    if "from scratch" in r.p.ways:
        conditions += r.conditions({"solo from scratch": r.from_scratch(None)})
    for weight in r.p.mutual_weights:
        if "fine-tuned" in r.p.ways:
            conditions += with_peers(r, pretrained, weight)
        if "from scratch" in r.p.ways:
            conditions += r.conditions({"mutual from scratch": r.from_scratch(r.coupling(weight))}, weight=weight)
    return conditions


def couplings(r: Replicate) -> list[Condition]:
    """One way to couple after the other at the weight ``p.mutual_weight``, the factor ``coupling``; the live peers at
    the paper's weight as well; and at last :func:`random_embeddings`.

    Fine-tuned: live peers; those of an auxiliary head (ExFM, arXiv 2502.17494); peers seen every so many steps
    (``p.refreshes``) and at every epoch's beginning (codistillation, Anil et al. 2018); frozen for good, their mean,
    the member's own frozen copy, and peers' predictions of other rows; live peers by another distance (``p.forms``) or
    another coupling matrix of the same total weight (``p.topologies``). From scratch: coupled after each number of
    epochs of ``p.starts``, and EKTF with separate and with shared embeddings (:func:`ctrlib.coupling.peer_loss`).
    """
    p, pretrained, rate = r.p, r.pretraining(), rate_of(r.protocol)
    weight, train = p.mutual_weight, at_rate(r, rate)
    steps = ceil(data_shape(r.data)[0] / p.batch_size)
    row = (weight / p.instances,) * p.instances
    stale = {f"every {m} steps": {"refresh": m} for m in p.refreshes if m != steps} | {
        "every epoch": {"refresh": steps}
    }
    changes = {
        "live": {},
        "auxiliary head": {"head": "auxiliary"},
        **stale,
        "frozen": {"target": "frozen"},
        "frozen ensemble": {"target": "frozen_ensemble", "weights": (row,) * p.instances},
        "shuffled": {"target": "shuffled"},
    }
    changes |= {f"live, {form}".replace("_", " "): {"form": form} for form in p.forms}
    others = {name: TOPOLOGIES[name](p.instances, weight) for name in p.topologies}
    changes |= {f"live, {name}".replace("_", " "): {"weights": matrix} for name, matrix in others.items()}
    made = {name: r.coupling(**{"weights": weight, **change}) for name, change in changes.items()}
    found = {name: mutual_finetuning(pretrained, coupling, train) for name, coupling in made.items()}
    found = {"live, weight 1": mutual_finetuning(pretrained, r.coupling(1.0), train)} | found if weight != 1 else found
    found["self-anchor"] = self_anchor(r, pretrained, weight, train)
    conditions = without_peers_at_each_rate(r, pretrained)
    conditions += r.conditions({"solo from scratch": r.from_scratch(None)})
    for name, runs in found.items():
        conditions += r.conditions({"mutual": runs}, rate=rate, coupling=name)
    ektf = r.from_scratch(r.coupling(weight, peer_weighting="adaptive", teacher_weight=weight))
    scratch = {f"live after {start:g} epochs": r.from_scratch(r.late_coupling(weight, start)) for start in p.starts}
    for name, runs in {**scratch, "EKTF": ektf, "EKTF, shared embeddings": sharing(ektf)}.items():
        conditions += r.conditions({"mutual from scratch": runs}, coupling=name)
    return conditions + random_embeddings(r)


def sharing(runs: Runs) -> Runs:
    """The same runs with one embedding table for all members."""
    return [run.model_copy(update={"embeddings": "shared"}) for run in runs]


def random_embeddings(r: Replicate) -> list[Condition]:
    """Where features cannot be learned, an ensemble should gain and what one model takes over from others should not
    (Allen-Zhu and Li 2023, arXiv 2012.09816): embeddings that are learned, and random ones that never are; alone and
    coupled from scratch at each of :data:`PAPER_WEIGHTS`, for :data:`LEARNED_TOP`.

    Alone is trained on orders of its own, so that with early stopping it is the checkpoints of other pages.
    """
    conditions, names = [], [LEARNED_TOP] * r.p.instances
    for kind, spread in (("learned", 0.0), ("random", SPREAD)):
        alone, drawn = r.pretraining(names, r.p.epochs + r.p.finetune_epochs), {"random_embeddings": spread}
        together = {weight: r.from_scratch(r.coupling(weight), names) for weight in PAPER_WEIGHTS}
        conditions += r.conditions({"alone": changed(alone, drawn)}, embeddings=kind)
        for weight, runs in together.items():
            conditions += r.conditions({"coupled": changed(runs, drawn)}, embeddings=kind, weight=weight)
    return conditions
