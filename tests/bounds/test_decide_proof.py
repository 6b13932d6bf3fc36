"""Trees of decisions: they cover, are saved and proved once more, and refused if changed."""

import itertools
from dataclasses import fields, replace

import keras
import numpy as np
import pytest
from brute_force import property_values
from decided import ask, check, verifier_of
from networks import functional
from tiny_networks import chain, draw_weights, tiny

from xcertify.bounds import ProofTree, Verifier
from xcertify.bounds.branching.compiled import Branching
from xcertify.bounds.branching.decide import Decider
from xcertify.bounds.branching.recheck import tensors_at
from xcertify.recheck import recheck
from xcertify.regions import Ball

L = keras.layers
CLOSE = (0.02, 0.01, 5e-3, -2e-3)  # worst values that take branches to decide
SMOOTH = chain("tanh")
CASES = [
    ("one_layer", np.inf, "activations"),
    ("relu", 2, "inputs"),
    (SMOOTH, np.inf, "activations"),
]
OTHERS = [
    case
    for case in itertools.product(["relu", SMOOTH], [np.inf, 2, 1], ["inputs", "activations"])
    if case not in CASES
]

ENOUGH = {"timeout": None, "nb_branches": 200}


def decided(build, norm, strategy):
    verifier = verifier_of(build)
    model = draw_weights(verifier.model, 0)
    asked = ask(model, 0, norm=norm, wanted=CLOSE, radii=(0.8, 1.5))
    question = asked.region, asked.rows, asked.limits
    found = verifier.decide(*question, strategy=strategy, proof=True, **ENOUGH)
    return verifier, asked, found


@pytest.fixture(scope="module")
def known():
    return decided(*CASES[1])


@pytest.fixture
def proved(known):
    """The same, with the weights that it is about."""
    draw_weights(known[0].model, 0)
    return known


def check_proof(verifier, asked, found, path, dtype="float64"):
    """The tree says what the decision says; it covers, and is proved again from a file."""
    proof = found.proof
    assert (proof.holds == found.holds).all() and found.holds.any() and not found.holds.all()
    assert len(proof.split_nodes) > 3
    assert 2 * len(proof.split_nodes) <= found.nb_branches.sum()
    proof.check()
    check_leaves(verifier, asked, proof)
    proof.save(path)
    loaded = ProofTree.load(path)
    for field in fields(ProofTree):
        if field.name not in ("region", "constants"):
            np.testing.assert_array_equal(getattr(loaded, field.name), getattr(proof, field.name))
    question = asked.region, asked.rows, asked.limits
    assert (verifier.recheck(loaded, *question, dtype=dtype) == found.holds).all()


def check_leaves(verifier, asked, proof):
    """Every point of a region lies in a leaf, and no leaf promises more than there is."""
    engine = verifier._engine
    for sample, number in zip(*proof.problems):
        region = asked.region[sample : sample + 1]
        corners = np.stack([region.lower[0], region.upper[0]]).T
        corners = np.array(list(itertools.product(*corners)), region.center.dtype)
        points = region.project(np.concatenate([region.sample(200, 1)[:, 0], corners])[:, None])
        points = points[:, 0].astype("f8")
        leaves = proof.leaves(sample, number)
        held = leaves.contain(points, tensors_at(engine, [points], proof.strategy))
        assert held.any(axis=1).all()
        rows, limits = asked.rows[sample, number], asked.limits[sample, number]
        values = property_values(rows[None], limits[None], asked.net.values(points))
        assert (held * leaves.margins <= np.maximum(values, 0)[:, None] + 1e-9)[held].all()
        (problem,) = np.flatnonzero((proof.problems[0] == sample) & (proof.problems[1] == number))
        assert (leaves.margins > 0).all() == proof.complete[problem]


@pytest.mark.parametrize(("number", "dtype"), [(0, "float32"), (1, "float64"), (2, "float64")])
def test_saved_and_proved_once_more(number, dtype, tmp_path):
    check_proof(*decided(*CASES[number]), tmp_path / "proof.npz", dtype)


@pytest.mark.slow
@pytest.mark.parametrize("case", OTHERS, ids=range(len(OTHERS)))
def test_saved_and_proved_once_more_in_other_cases(case, tmp_path):
    check_proof(*decided(*case), tmp_path / "proof.npz")


def test_few_branches_at_once(proved, monkeypatch):
    """What waits for its first branch is not proved."""
    monkeypatch.setattr(Branching, "batch_size", 2)
    verifier, asked, _ = proved
    question, limits = (asked.region, asked.rows, asked.limits), {"timeout": None, "nb_branches": 4}
    found = verifier.decide(*question, strategy="inputs", proof=True, **limits)
    assert found.unknown.sum() > 1
    check(found, asked)
    check_leaves(verifier, asked, found.proof)
    assert (found.proof.holds == found.holds).all()


def test_trees_end_where_branches_lead_to_a_counterexample(proved, monkeypatch):
    monkeypatch.setattr(Decider, "_attack", lambda *_: None)
    verifier, asked, _ = proved
    violated = asked[3:]
    question = violated.region, violated.rows, violated.limits
    found = verifier.decide(*question, strategy="inputs", proof=True, **ENOUGH)
    check(found, violated, verifier.model)
    assert found.violated.all() and found.reason[0] == "branch and bound"
    assert not found.proof.holds.any() and not found.proof.complete.all()
    check_leaves(verifier, violated, found.proof)
    assert not verifier.recheck(found.proof, dtype="float32").any()


def test_no_tree_unless_asked_for(proved):
    verifier, asked, _ = proved
    assert verifier.decide(asked.region, asked.rows, asked.limits, **ENOUGH).proof is None


def test_one_node_where_bounds_are_enough(proved):
    verifier, asked, _ = proved
    few = asked.region, asked.rows, asked.limits - 10
    proof = verifier.decide(*few, proof=True).proof
    assert proof.holds.all() and not len(proof.split_nodes)
    assert verifier.recheck(proof, *few, dtype="float32").all()


def test_inputs_that_do_not_vary(tmp_path):
    varied, constant = keras.Input((2,)), keras.Input((2,))
    hidden = L.Dense(4, "relu")(L.Concatenate()([varied, constant]))
    verifier = Verifier(functional([varied, constant], L.Dense(3)(hidden)))
    region, constants = Ball(np.zeros((2, 2)), 0.1), [np.ones((2, 2), "float32")]
    rows, limits = np.ones((1, 1, 3)), [[-50.0]]
    proof = verifier.decide(region, rows, limits, constants, proof=True).proof
    proof.save(tmp_path / "proof.npz")
    proof = ProofTree.load(tmp_path / "proof.npz")
    assert verifier.recheck(proof, region, rows, limits, constants).all()
    with pytest.raises(ValueError, match="constants must be"):
        verifier.recheck(proof, region, rows, limits, [2 * constants[0]])
    with pytest.raises(ValueError, match="the constants differ"):
        verifier.recheck(replace(proof, constants=(2 * constants[0],)))


def test_by_the_function_for_all_certificates(proved):
    verifier, _, found = proved
    assert (recheck(found.proof, verifier.model) == found.holds).all()


@pytest.mark.parametrize("at_once", [None, 2])
def test_what_cannot_be_proved_is_named(proved, at_once, monkeypatch):
    """Whoever forges margins and digests proves nothing, in batches of any size."""
    if at_once:
        monkeypatch.setattr(Branching, "batch_size", at_once)
    verifier, _, found = proved
    proof = found.proof
    forged = replace(proof, margins=np.ones_like(proof.margins)).sealed()
    assert forged.holds.all()
    with pytest.warns(UserWarning, match=r"could not be proved again: node \d+ \(region 3, "):
        again = verifier.recheck(forged)
    assert (again == found.holds).all()
    nothing = np.zeros(0, int)  # whole regions, of which all but one take some more splits
    roots = replace(proof, split_nodes=nothing, entries=nothing, values=np.zeros(0))
    with pytest.warns(UserWarning, match=r"again: node [67] \(region 3, conjunction [01]\)"):
        assert not verifier.recheck(replace(roots, margins=np.ones(8)).sealed())[3]


def moved(proof):
    return {"values": proof.values + 1e-3}


def raised(proof):
    return {"margins": proof.margins + (proof.margins > 0)}


def other_entry(proof):
    return {"entries": 1 - proof.entries}


def without_last_leaf(proof):
    return {"margins": proof.margins[:-1]}


def without_last_split(proof):
    names = ("split_nodes", "entries", "values")
    return {name: getattr(proof, name)[:-1] for name in names}


def without_its_value(proof):
    return {"values": proof.values[:-1]}


def split_twice(proof):
    nodes = proof.split_nodes.copy()
    nodes[-1] = nodes[0]
    return {"split_nodes": nodes}


def before_it_was_made(proof):
    nodes = proof.split_nodes.copy()
    nodes[0] = len(proof.margins) - 1
    return {"split_nodes": nodes}


def other_limits(proof):
    return {"limits": proof.limits - 1}


def other_rows(proof):
    return {"rows": -proof.rows}


def smaller_region(proof):
    return {"region": Ball(proof.region.center, 0.01, proof.region.norm)}


def of_other_types(proof):
    return {"split_nodes": proof.split_nodes + 0.5}


def no_number(proof):
    return {"values": np.where(proof.values == proof.values[0], np.nan, proof.values)}


TAMPERED = {
    moved: "values at splits differ",
    raised: "margins differ",
    other_entry: "entries that are split differ",
    without_last_leaf: "a leaf is missing",
    without_last_split: "nodes, but there are",
    without_its_value: "so many others: .*'values'",
    split_twice: "is split twice",
    before_it_was_made: "made after it",
    other_limits: "limits differ",
    other_rows: "rows differ",
    smaller_region: "the region differ",
    no_number: "is no number",
    of_other_types: "no whole numbers",
}


@pytest.mark.parametrize("change", TAMPERED, ids=lambda change: change.__name__)
def test_tampering_is_refused(proved, change):
    verifier, _, found = proved
    with pytest.raises(ValueError, match=TAMPERED[change]):
        verifier.recheck(replace(found.proof, **change(found.proof)))


def test_a_leaf_without_a_margin_proves_nothing(proved):
    verifier, _, found = proved
    proof = found.proof
    leaf = np.flatnonzero(proof.is_leaf & (proof.margins > 0))[-1]
    margins = proof.margins.copy()
    margins[leaf] = -1.0
    open_again = replace(proof, margins=margins).sealed()
    region = proof.problems[0][proof.problem_of[leaf]]
    assert found.holds[region] and not verifier.recheck(open_again)[region]


def test_another_question_is_refused(proved):
    verifier, asked, found = proved
    region, rows, limits = asked.region, asked.rows, asked.limits
    for other, word in (
        ((Ball(region.center, 0.1, region.norm), rows, limits), "region"),
        ((region[:2], rows, limits), "region"),
        ((region, rows + 1, limits), "rows"),
        ((region, rows[0], limits), "rows"),
        ((region, rows, limits + 1), "limits"),
        ((region, rows, limits, [region.center]), "constants"),
    ):
        with pytest.raises(ValueError, match=f"{word} must be those of the proof"):
            verifier.recheck(found.proof, *other)


def test_another_model_is_refused(proved):
    verifier, _, found = proved
    with pytest.raises(ValueError, match="a verifier with"):
        Verifier(verifier.model, start_layer=verifier.model.layers[1].name).recheck(found.proof)
    draw_weights(verifier.model, 1)
    for again in (verifier.recheck, lambda proof: recheck(proof, verifier.model)):
        with pytest.raises(ValueError, match="weights"):
            again(found.proof)
    other = tiny(chain("tanh", "relu", units=6))  # weights of the same shapes, another function
    other.set_weights(draw_weights(verifier.model, 0).get_weights())
    proof = replace(found.proof, strategy="activations").sealed()
    with pytest.raises(ValueError, match="activations are not those"):
        Verifier(other, strip_head=False).recheck(proof)


def test_a_file_that_is_no_proof(tmp_path):
    np.savez(tmp_path / "other.npz", lower=np.zeros(3))
    with pytest.raises(ValueError, match="must be a proof"):
        ProofTree.load(tmp_path / "other.npz")


def test_a_file_without_a_tree(proved, tmp_path):
    proof = proved[2].proof
    replace(proof, **before_it_was_made(proof)).save(tmp_path / "proof.npz")
    with pytest.raises(ValueError, match="no tree that covers"):
        ProofTree.load(tmp_path / "proof.npz")
