"""The plan for many devices, against what it is by hand."""

from small import make_run, member

from ctrlib.config import Checkpoint, Run
from ctrlib.coupling import complete
from ctrlib.run.estimate import fleet_lines, makespan


def a_plan() -> tuple[list[Run], dict[str, float]]:
    """A cohort of 5 s, named first, that builds on two runs of 4 s and 6 s; four more of 3 s each."""
    before = [make_run([member(n)]) for n in range(6)]
    starts = [Checkpoint(run=run.fingerprint) for run in before[:2]]
    cohort = make_run([member(0), member(1)], complete(2), start=starts)
    seconds = dict(zip([run.fingerprint for run in before], [4.0, 6.0, 3.0, 3.0, 3.0, 3.0], strict=True))
    return [cohort, *before], {**seconds, cohort.fingerprint: 5.0}


def test_devices_makespan() -> None:
    runs, seconds = a_plan()
    for devices, least in ((1, 27.0), (2, 14.0), (3, 11.0), (100, 11.0)):  # two: 6 5 3 beside 4 3 3 3
        assert makespan(runs, seconds, devices) == least
    assert makespan(runs[:1], {runs[0].fingerprint: 5.0}, 8) == 5.0, "what is in the store already is not waited for"


def test_the_limit_is_named() -> None:
    few, many = fleet_lines(*a_plan(), fleets=(2, 64))
    assert few == "2 such devices: about 14 seconds, 96% busy; the limit is the number of devices"
    assert "about 11 seconds, 4% busy; the limit is the longest chain" in many
