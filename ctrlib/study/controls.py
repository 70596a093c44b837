"""What else could explain a gain, what else could be had for the price, and where the effect ends: the conditions of
one replicate."""

from itertools import product

from ctrlib.config import Recipe, Run, StoredMember
from ctrlib.study.conditions import Condition, Replicate, Runs, continued_training, finetuned, mutual_finetuning
from ctrlib.study.finetuning import RATES, main_comparison

RIVALS = {  # of the peers: what each changes in continued training
    "embedding L2 tenfold": lambda recipe: {"embedding_l2": 10 * recipe.embedding_l2 or 1e-5},
    "gradient penalty": lambda recipe: {"gradient_penalty": 0.3},
    "label smoothing": lambda recipe: {"label_smoothing": 0.1},
    "MEDA": lambda recipe: {"meda": True},
}
RDROP, RDROP_DROPOUT = 1.0, 0.2  # its weight, and the dropout of its models where the others have none


def alternatives_at_equal_cost(r: Replicate) -> list[Condition]:
    """Rivals of mutual fine-tuning that have no peers, or peers that do not learn.

    ``self-anchor``: each checkpoint learns from its own frozen copy. ``frozen ensemble``: from the frozen mean of the
    cohort. ``offline distillation``: new models learn from scratch from clicks and that mean. ``averaged weights``:
    continued training, of which the exponential average of the weights counts. ``wider``: one model of twice the
    width and embedding, from scratch for as many epochs.
    """
    p, pretrained, train = r.p, r.pretraining(), r.recipe()
    wide = r.varied(embedding_dim=2 * p.embedding_dim, hidden_units=tuple(2 * width for width in p.hidden_units))
    row = (p.mutual_weight / p.instances,) * p.instances
    found = {
        **finetuned(pretrained, r.coupling(), train),
        "self-anchor": self_anchor(r, pretrained, p.mutual_weight),
        "frozen ensemble": mutual_finetuning(
            pretrained, r.coupling((row,) * p.instances, target="frozen_ensemble"), train
        ),
        "averaged weights": averaged_weights(r, pretrained),
        **r.both_from_scratch(r.coupling()),
        "offline distillation": offline_distillation(r, pretrained, p.mutual_weight),
        "wider": wide.from_scratch(None),
    }
    return r.conditions(found)


def rivals(r: Replicate) -> list[Condition]:
    """Mutual fine-tuning beside what could do the same without peers: continued training with each of :data:`RIVALS`,
    with averaged weights and with R-Drop, whose checkpoints have dropout and a control of their own; and, at each
    weight of the peers, the self-anchor and the pull to the base rate. All at the learning rate and a tenth of it.
    """
    pretrained, noisy = r.pretraining(), r.varied(dropout=r.p.dropout or RDROP_DROPOUT).pretraining()
    conditions = r.conditions({"checkpoint": pretrained, "checkpoint, dropout": noisy})
    for rate in ("lr", "lr/10"):
        train = r.recipe(learning_rate=r.p.learning_rate * RATES[rate])
        changed = {name: train.model_copy(update=change(train)) for name, change in RIVALS.items()}
        found = {
            "continued training": continued_training(pretrained, train),
            **{name: continued_training(pretrained, recipe) for name, recipe in changed.items()},
            "averaged weights": averaged_weights(r, pretrained, train),
            "continued training, dropout": continued_training(noisy, train),
            "R-Drop": continued_training(noisy, train.model_copy(update={"rdrop": RDROP})),
        }
        conditions += r.conditions(found, rate=rate)
        for weight in r.p.mutual_weights:
            pulled = train.model_copy(update={"base_rate_weight": weight})
            found = {
                "mutual": mutual_finetuning(pretrained, r.coupling(weight), train),
                "self-anchor": self_anchor(r, pretrained, weight, train),
                "base rate": continued_training(pretrained, pulled),
            }
            conditions += r.conditions(found, rate=rate, weight=weight)
    return conditions


def self_anchor(r: Replicate, pretrained: Runs, weight: float, train: Recipe | None = None) -> Runs:
    """Each checkpoint trains on towards its own frozen copy, with the total weight of the peers."""
    coupling = r.coupling(((weight,),), target="frozen")
    return [run for one in pretrained for run in mutual_finetuning([one], coupling, train or r.recipe())]


def averaged_weights(r: Replicate, pretrained: Runs, train: Recipe | None = None) -> Runs:
    """Continued training, of which the exponential moving average of the weights counts."""
    averaged = {"averaging": "ema", "averaging_decay": r.p.averaging_decay}
    return continued_training(pretrained, (train or r.recipe()).model_copy(update=averaged))


def offline_distillation(r: Replicate, teachers: Runs, weight: float) -> Runs:
    """New models, each by itself, learn from scratch from the clicks and, with the total ``weight``, from the mean of
    the frozen ``teachers``."""
    row = (weight / len(teachers),) * len(teachers)
    coupling = r.coupling((row,), target="frozen_ensemble")
    return [
        Run(
            data=r.data,
            members=(r.member(slot, one.members[0].architecture, shared_order=True),),
            coupling=coupling,
            recipe=r.recipe(r.p.epochs + r.p.finetune_epochs),
            teachers=tuple(StoredMember(run=run.fingerprint) for run in teachers),
        )
        for slot, one in enumerate(teachers)
    ]


def your_log(r: Replicate) -> list[Condition]:
    """What pays on a log: :func:`main_comparison`, and what else could be had, for each architecture: averaged weights
    and, at each weight, distillation from the checkpoints' ensemble; and one FM to be better than."""
    conditions = main_comparison(r)
    for architecture in r.p.architectures:
        pretrained = r.pretraining([architecture] * r.p.instances)
        found = {"averaged weights": averaged_weights(r, pretrained), "FM": r.pretraining(["FM"])}
        conditions += r.conditions(found, architecture=architecture)
        for weight in r.p.mutual_weights:
            found = {"distilled": offline_distillation(r, pretrained, weight)}
            conditions += r.conditions(found, architecture=architecture, weight=weight)
    return conditions


def where_it_ends(r: Replicate) -> list[Condition]:
    """Open question 4: rows of data, width of the model and noise of the clicks, in every combination, on the
    synthetic data, whose oracle AUC is known."""
    conditions = []
    for rows, width, noise in product(r.p.row_levels, r.p.width_levels, r.p.noise_levels):
        at = r.varied(rows=rows, hidden_units=(width,) * len(r.p.hidden_units), logit_sd=noise)
        found = {**finetuned(at.pretraining(), at.coupling(), at.recipe()), **at.both_from_scratch(at.coupling())}
        conditions += r.conditions(found, rows=rows, width=width, logit_sd=noise)
    return conditions


def real_clicks(r: Replicate) -> list[Condition]:
    """The study in small, for a prepared data set: fine-tuned and from scratch at every weight of the peers, for each
    architecture; for ``p.architecture`` also at a tenth of the learning rate, with later starts of the coupling, with
    frozen and shuffled peers and the self-anchor, and in cohorts of other sizes; and one member of each architecture
    together.

    The factor ``cohort`` names who is in the cohort, ``instances`` how many.
    """
    p, conditions = r.p, []

    def add(found: dict[str, Runs], cohort: str, size: int = p.instances, **factors: float) -> None:
        conditions.extend(r.conditions(found, cohort=cohort, instances=size, **factors))

    def finetuning(pretrained: Runs, cohort: str, rate: str = "") -> None:
        size, train = len(pretrained), r.recipe(learning_rate=p.learning_rate / (10 if rate else 1))
        add({f"continued training{rate}": continued_training(pretrained, train)}, cohort, size)
        for weight in p.mutual_weights:
            together = mutual_finetuning(pretrained, r.coupling(weight, size), train)
            add({f"mutual{rate}": together}, cohort, size, weight=weight)

    def controls(pretrained: Runs) -> None:
        for weight in p.mutual_weights:
            frozen, shuffled = (r.coupling(weight, target=target) for target in ("frozen", "shuffled"))
            found = {
                "frozen peers": mutual_finetuning(pretrained, frozen, r.recipe()),
                "shuffled peers": mutual_finetuning(pretrained, shuffled, r.recipe()),
                "self-anchor": self_anchor(r, pretrained, weight),
                "shuffled peers from scratch": r.from_scratch(shuffled),
            }
            add(found, p.architecture, weight=weight)

    def scratch(architecture: str, starts: tuple[float, ...]) -> None:
        names = [architecture] * p.instances
        add({"solo from scratch": r.from_scratch(None, names)}, architecture)
        for weight, epochs in product(p.mutual_weights, starts):
            runs = r.from_scratch(r.late_coupling(weight, epochs), names)
            add({"mutual from scratch": runs}, architecture, weight=weight, **{"coupling start": epochs})

    checkpoints = {}
    for architecture in dict.fromkeys([p.architecture, *p.architectures]):
        pretrained = checkpoints[architecture] = r.pretraining([architecture] * p.instances)
        add({"checkpoint": pretrained}, architecture)
        finetuning(pretrained, architecture)
        scratch(architecture, p.starts if architecture == p.architecture else p.starts[:1])
    finetuning(checkpoints[p.architecture], p.architecture, " lr/10")
    controls(checkpoints[p.architecture])
    largest = r.pretraining([p.architecture] * max(p.sizes))
    if len(largest) > p.instances:  # its last members are in no cohort above
        add({"checkpoint": largest}, p.architecture, len(largest))
    for size in p.sizes:
        if size != p.instances:
            finetuning(largest[:size], p.architecture)
    together = [checkpoints[name][n] for n, name in enumerate(p.architectures[: p.instances])]
    if len(together) > 1:  # each is a member that the cohort of its own kind has trained
        finetuning(together, " + ".join(p.architectures[: p.instances]))
    return conditions
