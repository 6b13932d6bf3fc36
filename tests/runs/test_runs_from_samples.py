"""Runs whose certificates are from samples: batches, order and workers change nothing."""

import os
from pathlib import Path

import numpy as np
import pytest
from small_runs import NB_INPUTS, Inputs, content, small_job, small_model

from xcertify import distributed
from xcertify.attributions import GradientInput, SmoothedAttribution
from xcertify.certificates import SmoothedCertificate
from xcertify.runs import Job, run
from xcertify.runs.worker import Worker
from xcertify.verdicts import recheck

SETTINGS = {"of": "GradientInput", "nb_samples": 60, "alpha": 0.05, "tau": 0.6, "batch_size": 64}


@pytest.fixture(scope="module")
def model():
    return small_model()


def job(folder, model, **changes):
    explainer = changes.pop("explainer", "SmoothedAttribution")
    settings = SETTINGS | changes.pop("settings", {})
    return small_job(folder, model, explainer=explainer, settings=settings, **changes)


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    return run(job(tmp_path_factory.mktemp("whole") / "run", model), verbose=False)


def in_reverse(some, parts):
    """Two workers that take turns, from the last part to the first."""
    workers = Worker(some), Worker(some)
    for place, part in enumerate(reversed(parts)):
        yield workers[place % 2](part)


def together(found):
    """Numbers of inputs, and their certificates as one."""
    parts = list(found.certificates())
    certificate = SmoothedCertificate.concatenate([part for _, part in parts])
    return np.concatenate([numbers for numbers, _ in parts]), certificate


def test_certificates_of_a_run_are_those_of_one_call(whole, model):
    numbers, certificate = together(whole)
    np.testing.assert_array_equal(numbers, range(NB_INPUTS))
    inputs = np.stack(Inputs().read(0, NB_INPUTS).inputs)
    explainer = SmoothedAttribution(
        GradientInput(model), nb_samples=60, alpha=0.05, tau=0.6, batch_size=64
    )
    expected = explainer.certify(inputs)
    assert 0 < expected.abstained.mean() < 1
    # of roundings, which are those of a batch: not more than one sample of sixty
    np.testing.assert_allclose(certificate.votes, expected.votes, atol=1.01 / 60)
    np.testing.assert_array_equal(whole.maps(), certificate.votes.astype(np.float32))
    np.testing.assert_allclose(whole.maps(), explainer.explain(inputs), atol=1.01 / 60)
    assert certificate.origin == expected.origin
    assert recheck(certificate, model).confirmed.all()


def test_maps_beside_certificates_take_no_samples_of_their_own(model, tmp_path, monkeypatch):
    inputs = np.stack(Inputs().read(0, NB_INPUTS).inputs)
    explainer = SmoothedAttribution(
        GradientInput(model), nb_samples=60, alpha=0.05, tau=0.6, batch_size=64
    )
    expected, drawn = explainer.explain(inputs), []
    votes = SmoothedAttribution._votes

    def counted(self, inputs, targets, purpose, *others):
        drawn.append((purpose, len(inputs)))
        return votes(self, inputs, targets, purpose, *others)

    monkeypatch.setattr(SmoothedAttribution, "_votes", counted)
    found = run(job(tmp_path / "run", model, batch=NB_INPUTS), verbose=False)
    assert sorted(drawn) == [("choose", NB_INPUTS), ("test", NB_INPUTS)]
    np.testing.assert_array_equal(found.maps(), expected)  # of the same batches


@pytest.mark.parametrize("changes", [{"batch": 1}, {"batch": 7}, {"batch": NB_INPUTS}])
def test_batches_change_nothing_but_roundings(whole, model, tmp_path, changes):
    found = run(job(tmp_path / "run", model, **changes), verbose=False)
    _, expected = together(whole)
    _, certificate = together(found)
    np.testing.assert_allclose(certificate.votes, expected.votes, atol=1.01 / 60)
    same = certificate.votes == expected.votes
    assert same.mean() > 0.99
    np.testing.assert_array_equal(certificate.targets, expected.targets)


def test_workers_change_nothing(whole, model, tmp_path):
    found = run(job(tmp_path / "run", model), part=4, verbose=False, by=in_reverse)
    assert content(found) == content(whole)


def test_bad_inputs_change_nothing_of_the_others(whole, model, tmp_path):
    source = Inputs(bad={5: np.full(5, np.nan)})
    found = run(job(tmp_path / "run", model, source=source), verbose=False)
    assert found.nb_errors == 1
    others = np.arange(NB_INPUTS) != 5
    np.testing.assert_allclose(found.maps()[others], whole.maps()[others], atol=1.01 / 60)


@pytest.mark.parametrize("explainer", ["SmoothedAttribution", "UniformlySmoothedAttribution"])
def test_maps_alone(model, tmp_path, explainer):
    settings = {"nb_samples": 60} if explainer[0] == "S" else {"noise_radius": 1.0}
    some = Job(
        "explain",
        explainer,
        {"of": "Saliency", "of_settings": {"reducer": "mean"}} | settings,
        model,
        Inputs(),
        tmp_path / "run",
        batch=5,
    )
    found = run(some, verbose=False)
    assert found.settings["settings"]["of_settings"]["reducer"] == "mean"
    maps = found.maps()
    assert maps.shape == (NB_INPUTS, 5) and np.isfinite(maps).all()
    assert maps.std() > 0.01


def squares(points, targets):
    """A map that no class of this package gives."""
    return points * points * targets.max()


@pytest.mark.parametrize("of", [GradientInput, lambda model: squares])
def test_explainers_and_functions_from_python(whole, model, tmp_path, of):
    settings = {name: value for name, value in SETTINGS.items() if name != "of"}
    explainer = SmoothedAttribution(of(model), model=model, **settings)
    inputs = np.stack(Inputs().read(0, NB_INPUTS).inputs)
    found = distributed.certify(explainer, inputs, tmp_path / "run", batch=4, verbose=False)
    _, certificate = together(found)
    expected = explainer.certify(inputs)
    np.testing.assert_allclose(certificate.votes, expected.votes, atol=1.01 / 60)
    in_words = found.settings["settings"]["of"]
    assert in_words == (
        "GradientInput" if of is GradientInput else {"in words": in_words["in words"]}
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_processes_change_nothing(whole, model, tmp_path, monkeypatch):
    pytest.importorskip("ray.data")
    tests = Path(__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tests), str(tests / "runs")]))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    file = tmp_path / "model.keras"
    model.save(file)
    found = distributed.run(job(tmp_path / "run", str(file)), workers=2, part=4, verbose=False)
    assert content(found) == content(whole)


@pytest.mark.parametrize("nb_inputs", [None, 2])
def test_levels_that_a_batch_would_share_are_refused(model, tmp_path, nb_inputs):
    message = rf"nb_inputs={nb_inputs} would share the level.*nb_inputs={NB_INPUTS}, or 1"
    with pytest.raises(ValueError, match=message):
        job(tmp_path / "run", model, settings={"nb_inputs": nb_inputs})
    found = job(tmp_path / "run", model, settings={"nb_inputs": NB_INPUTS})
    _, certificate = together(run(found, verbose=False))
    assert certificate.level == 0.05 / NB_INPUTS
