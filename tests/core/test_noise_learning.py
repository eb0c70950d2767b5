"""What a service's own past teaches about its noise, and what it cannot teach."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bench.traffic import Noise as TrafficNoise
from bench.traffic import NoiseKind, Service, history
from canary_release.core.frames import frame_from_windows, windows_from_frame
from canary_release.core.held_against import FEWEST_CLUMPED
from canary_release.core.judge import judge
from canary_release.core.noise import DEFAULT_NOISE, Noise
from canary_release.core.noise_learning import learn
from canary_release.core.noise_report import NoiseReport
from canary_release.core.problems import FrameError, LedgerError
from canary_release.core.release import Check, CheckKind
from canary_release.core.replay import replay
from canary_release.core.values import Verdict
from core.simulated import ERRORS, LATENCY, Traffic, release_of, rollout

RELEASE = release_of(ERRORS, LATENCY)
CLUMPS = TrafficNoise(NoiseKind.CLUMPS, clump=3.0)
PODS = TrafficNoise(NoiseKind.INSTANCES, deviation=0.3, lasting=600.0)


def learned(noise: TrafficNoise, seed: int = 1, hours: float = 3.0, instances: int = 12) -> NoiseReport:
    return learn(RELEASE, history(Service(instances=instances, noise=noise), hours, 30.0, seed))


def test_calm_service_is_learned_to_be_calm() -> None:
    found = learned(TrafficNoise())
    assert found.checks["error_rate"].phi == pytest.approx(1.0, abs=0.2)
    assert found.checks["error_rate"].tau2 < 0.05
    assert found.checks["page_load_time p95"].phi == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize(("clump", "phi"), [(3.0, 5.0), (6.0, 11.0)])
def test_clumps_are_learned_with_their_fano_factor(clump: float, phi: float) -> None:
    found = learned(TrafficNoise(NoiseKind.CLUMPS, clump=clump)).checks["error_rate"]
    assert 0.9 * phi <= found.phi <= 1.3 * phi


def test_waves_and_incidents_that_all_instances_share_are_not_taken_for_noise() -> None:
    assert learned(TrafficNoise(NoiseKind.SHARED)).checks["error_rate"].phi < 1.3


def test_instances_that_wander_for_ten_minutes_are_learned_as_such() -> None:
    """tau2 = 2 deviation^2 T/window: 2 * 0.09 * 600/30 = 3.6, and a quarter more for safety."""
    for seed in (1, 2, 3):
        found = learned(PODS, seed).checks["error_rate"]
        assert 0.2 <= found.wander <= 0.45
        assert 2.0 <= found.tau2 <= 12.0
        assert found.phi < 2.0, "slow noise is no clump"


def test_one_loud_incident_says_no_more_of_instances_than_any_other_minute() -> None:
    """Fifteen times the errors for a minute, and on one of four instances three times as many as on the others."""
    past = history(Service(instances=4, noise=PODS), 6.0, 60.0, 5)
    calm = learn(RELEASE, past).checks["error_rate"]
    times = np.where(past["instance"] == "i0", 45, 15)
    loud = past.assign(errors=np.where(past["window"] == 200, past["errors"] * times, past["errors"]))
    found = learn(RELEASE, loud).checks["error_rate"]
    assert found.wander == pytest.approx(calm.wander, rel=0.15)
    assert found.phi < 2.0


def test_few_large_clumps_are_not_taken_for_instances_that_wander() -> None:
    """They make squares so uneven that a difference of two usual standard errors is nothing."""
    service = Service(rate=50.0, noise=TrafficNoise(NoiseKind.CLUMPS, clump=6.0))
    found = [learn(RELEASE, history(service, 6.0, 60.0, seed)).checks["error_rate"].wander for seed in range(12)]
    assert np.mean(found) < 0.33


def test_report_survives_json() -> None:
    found = learned(PODS)
    assert NoiseReport.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found
    with pytest.raises(LedgerError, match="the noise in the ledger cannot be read"):
        NoiseReport.from_json({"checks": {"error_rate": {"phi": "loud"}}})


def test_report_says_what_was_learned_from_what() -> None:
    assert learned(CLUMPS).sentences[0].startswith("error_rate: learned from 3.0 h of 12 instances: counts are ")
    value = replace(RELEASE, checks=(Check("p99", CheckKind.VALUE),))
    assert "no counts to learn from" in learn(value, history(Service(), 1.0, 30.0, 1)).sentences[0]


def test_service_without_instances_teaches_clumps_and_keeps_the_default_for_instances() -> None:
    frame = history(Service(noise=CLUMPS), 3.0, 30.0, 4)
    windows = windows_from_frame(frame)
    for given in (windows, frame_from_windows(windows)):
        found = learn(RELEASE, given)
        assert found.checks["error_rate"].wander == DEFAULT_NOISE.wander
        assert found.checks["error_rate"].tau2 == DEFAULT_NOISE.tau2
        assert 4.0 <= found.checks["error_rate"].phi <= 9.0
        assert "cannot be seen in the service's own series" in found.sentences[0]


def test_too_few_events_teach_nothing_and_the_report_says_so() -> None:
    frame = history(Service(rate=1.0, errors=0.001), 0.5, 30.0, 1)
    found = learn(RELEASE, frame)
    assert "error_rate" not in found.checks
    assert "too few events" in found.sentences[0]
    assert learn(RELEASE, frame.iloc[:0]).sentences == ("the history has no windows: the defaults hold.",)


def test_history_with_one_instance_twice_in_a_window_is_refused() -> None:
    frame = history(Service(), 0.1, 30.0, 1)
    with pytest.raises(FrameError, match=r"column 'instance', row 13: 'i0' stands twice in this window"):
        learn(RELEASE, pd.concat([frame.iloc[:12], frame.iloc[:1], frame.iloc[12:]], ignore_index=True))


def test_instances_of_a_history_add_up_to_windows_of_the_service() -> None:
    frame = history(Service(instances=5), 0.1, 30.0, 1)
    windows = windows_from_frame(frame)
    first = frame[frame.window == 0]
    stable = windows[0].stable
    assert stable is not None
    assert (stable.requests, stable.errors, stable.instances) == (first.requests.sum(), first.errors.sum(), 5)
    assert stable.buckets == tuple(first.filter(like="le_").sum())
    assert windows[0].canary is None


def test_history_is_the_baseline_so_that_latency_is_judged_from_the_first_window() -> None:
    bad = rollout(np.random.default_rng(5), Traffic(stretch=3.0, windows=8, plan=(0.05,)))
    shares = history(Service(median=0.12, tail=3.0), 1.0, 30.0, 6)
    release = release_of(LATENCY, plan=(0.05, 1.0))
    known = learn(release, shares)
    assert judge(release, bad, noise=replace(known, baseline=NoiseReport().baseline)).evidence[0] < 2.0
    assert judge(release, bad, noise=known).evidence[0] > 20.0


def test_replay_with_a_history_is_faster_than_without() -> None:
    service = Service()
    table = frame_from_windows(rollout(np.random.default_rng(8), Traffic(times=4.0)))
    release = release_of(ERRORS, LATENCY)
    slow = replay(release, table)
    fast = replay(release, table, history(service, 3.0, 30.0, 9))
    first = [int(said.index[said.verdict == Verdict.FAIL][0]) for said in (slow, fast)]
    assert first[1] < first[0]


def test_noise_of_windows_of_another_length_is_converted() -> None:
    """Evidence for the same harm over the same time hardly depends on how often one looks."""
    noise = Noise(1.0, 0.4, 0.2, 30.0)
    found = []
    for seconds in (10.0, 30.0):
        traffic = Traffic(times=1.5, seconds=seconds, windows=int(1200 / seconds), plan=(0.25,))
        said = judge(
            release_of(Check("error_rate", CheckKind.PROPORTION), plan=(0.25, 1.0)),
            rollout(np.random.default_rng(3), traffic),
            noise=noise,
        )
        found.append(float(np.log(said.evidence[-1])))
    assert found[0] == pytest.approx(found[1], rel=0.35)


def test_incidents_of_wandering_instances_are_not_taken_for_clumps() -> None:
    """With clumps that are not there a window with any errors would count once, and good canaries be rolled back."""
    service = Service(instances=4, noise=PODS)
    found = [learn(RELEASE, history(service, 6.0, 60.0, seed)).checks["error_rate"] for seed in range(40)]
    assert max(noise.least_phi for noise in found) < FEWEST_CLUMPED
    assert np.median([noise.phi for noise in found]) < 2.0
