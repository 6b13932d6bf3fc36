"""Verifier: verified bounds of a Keras model, the one class that the rest of the package uses."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from xcertify.bounds.branching.attack import attack
from xcertify.bounds.branching.attacked import WorstPoints
from xcertify.bounds.branching.decide import STRATEGIES, Decider
from xcertify.bounds.branching.decision import Decision
from xcertify.bounds.branching.proof import ProofTree
from xcertify.bounds.branching.radius import decided_radii_of_balls
from xcertify.bounds.branching.recheck import check_question, recheck
from xcertify.bounds.engine import Engine, Question
from xcertify.bounds.graph.operations import Options
from xcertify.bounds.graph.relaxations import LOWER_SLOPES
from xcertify.bounds.graph.weights import check_weights
from xcertify.bounds.linear_bounds import LinearBounds
from xcertify.bounds.looseness import attained_rows
from xcertify.bounds.network import HEADS, Network, half_precision, head_of
from xcertify.bounds.probabilities import (
    outward,
    pair_rows,
    sigmoid_bounds,
    softmax_bounds,
)
from xcertify.bounds.propagation.budget import Budget, default_bytes
from xcertify.bounds.propagation.gradient import gradient_method
from xcertify.bounds.refusals import (
    check_constants,
    check_property,
    check_region,
    check_rows,
    label_rows,
    weight_radii,
)
from xcertify.bounds.rules.registry import registered_rules
from xcertify.checks import positive, whole_number
from xcertify.fingerprints import hash_of_weights
from xcertify.keras_graph import UnsupportedLayerError, layers_of
from xcertify.radii import Interval
from xcertify.regions import Ball, Norm, Region, refuse_few_changed
from xcertify.settings import Settings
from xcertify.sharing import shared
from xcertify.targets import MarginRows, refuse_other_than_classes, target_classes
from xcertify.usefulness import times_wider
from xcertify.words import Words, refuse_words

METHODS = ("ibp", "crown-ibp", "crown", "alpha-crown")

Rows = np.ndarray | MarginRows


class Verifier(Settings):
    """Verified bounds of a Keras model over regions of inputs.

    Parameters
    ----------
    model
        A built Sequential or functional model. It is never modified, and its current weights are
        used at every call.
    method
        "ibp" (intervals; cheapest, loosest), "crown-ibp" (one backward pass with interval bounds
        inside), "crown" (backward passes inside too), "alpha-crown" (crown with the lines under
        and over each activation optimised for every row; tightest and slowest), or
        "decomon:<method>", which runs decomon ("decomon:crown", "decomon:forward-ibp", ...). All
        but "ibp" are intersected with intervals.
    dtype
        "float32" or "float64": the type that bounds are computed in.
    arithmetic
        "real": bounds hold for the network in real arithmetic with its stored weights. "float32":
        they hold also for the network evaluated in float32 with sums in any order; a little wider,
        and refused for a model with layers that compute in float16 or bfloat16.
    memory_budget
        Bytes that a call may take at once, beside what it is given and what it returns: 1 GiB by
        default, on a GPU a quarter of its memory. Work that does not fit is done in parts, down to
        one sample and one row.
    start_layer
        Name of a layer: its output takes the place of the input, and regions are regions of it.
    strip_head
        True (default): a softmax or sigmoid at the end is left out, and bounds are of the logits;
        those of the probabilities are `bound_probabilities`. False: bounds are of what the model
        returns.
    perturbed, output
        Name or number of the input that varies and of the output that is bounded, for models with
        several; an output has the name of its layer, or its key in a dictionary. The others of the
        inputs are given as `constants` with each call.
    lower_slope
        Slope of the line under an activation where it bends: "adaptive" (the line closest to the
        activation in the middle; for ReLU 1 where upper > -lower, else 0), "parallel" (that of the
        line above), "left" or "right" (that of the activation at the end; for ReLU 0 or 1).
    nb_steps, learning_rate
        Of "alpha-crown".
    compile
        "auto": a question is first answered by running its operations one by one, and compiled as
        a graph once it is asked so often, or is so large, that this takes less time. True: it is
        compiled at the first call. False: never. Bounds are proved either way, and may differ by
        roundings. decomon's are always compiled.
    backward_depth
        Of "crown" and "alpha-crown": through how many nonlinear layers the backward passes of inner
        tensors go before intervals close them. None: through all, to the input, which is CROWN as
        it is published. 0 gives the bounds of "crown-ibp", or tighter ones behind several linear
        layers in a row; every number is sound, and higher ones are mostly tighter and take longer.
        "auto": None where its estimated work is at most some seconds of a processor for each
        sample, as for most networks up to the size of CIFAR-10; else the largest number for which
        it is; and the bounds of "crown-ibp" where 0 is more than that, as for most networks of
        ImageNet. `depth` says which it is.
    logits
        Deprecated. Instead of ``logits=True`` write ``strip_head=True``; instead of
        ``logits=False``, which leaves out a softmax and keeps a sigmoid, ``strip_head=True`` for a
        softmax and ``strip_head=False`` for a sigmoid.

    Raises
    ------
    ValueError
        For an unknown method, dtype or arithmetic.
    UnsupportedLayerError
        For a model or layer that cannot be bounded; the message names it and what can be.

    Guarantee
    ---------
    No point of the region leaves the bounds, for the network in the stated arithmetic. Rounding of
    the bounds' own computation is covered by the error terms described in
    `xcertify.bounds.rounding`, under the standard model of floating-point arithmetic, with
    TensorFloat-32 switched off during the call; transcendental functions are trusted to 16 ulp in
    float64. With a "decomon:" method the guarantee is that of decomon.

    Examples
    --------
    >>> verifier = Verifier(model, method="crown")
    >>> lower, upper = verifier.bound_outputs(Ball(images, epsilon=0.01, clip=(0, 1)))
    """

    def __init__(
        self,
        model: keras.Model,
        method: str = "crown",
        *,
        dtype: str = "float32",
        arithmetic: str = "real",
        memory_budget: int | None = None,
        start_layer: str | None = None,
        strip_head: bool = True,
        perturbed: int | str = 0,
        output: int | str = 0,
        lower_slope: str = "adaptive",
        nb_steps: int = 20,
        learning_rate: float = 0.1,
        compile: bool | str = "auto",
        backward_depth: int | str | None = "auto",
        logits: bool | None = None,
    ) -> None:
        if dtype not in ("float32", "float64"):
            raise ValueError(f"dtype must be 'float32' or 'float64'. Received: {dtype!r}")
        if arithmetic not in ("real", "float32"):
            raise ValueError(f"arithmetic must be 'real' or 'float32'. Received: {arithmetic!r}")
        if not (isinstance(compile, bool) or compile == "auto"):
            raise ValueError(f"compile must be 'auto', True or False. Received: {compile!r}")
        if lower_slope not in LOWER_SLOPES:
            raise ValueError(
                f"lower_slope must be one of {', '.join(LOWER_SLOPES)}. Received: {lower_slope!r}"
            )
        if isinstance(nb_steps, bool) or int(nb_steps) != nb_steps or nb_steps < 1:
            raise ValueError(f"nb_steps must be a whole number above 0. Received: {nb_steps!r}")
        if not learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0. Received: {learning_rate!r}")
        whole = isinstance(backward_depth, int) and not isinstance(backward_depth, bool)
        negative = isinstance(backward_depth, int) and backward_depth < 0
        if (not whole or negative) and backward_depth not in (None, "auto"):
            raise ValueError(
                f"backward_depth must be a whole number from 0 on, None or 'auto'. "
                f"Received: {backward_depth!r}"
            )
        if strip_head not in (True, False):
            raise ValueError(f"strip_head must be True or False. Received: {strip_head!r}")
        self.model, self.method, self.dtype = model, method, dtype
        self.arithmetic = arithmetic
        self.memory_budget = default_bytes() if memory_budget is None else int(memory_budget)
        self.start_layer, self.perturbed, self.output = start_layer, perturbed, output
        self.lower_slope, self.nb_steps, self.learning_rate = lower_slope, nb_steps, learning_rate
        self.strip_head, self.compile, self.logits = strip_head, compile, logits
        self.backward_depth = backward_depth
        self._check_method()
        self._check_precision()
        self._warn_of_the_former_name()
        _ = self._engine, self._decomon  # what cannot be bounded is refused now

    @property
    def guarantee(self) -> str:
        """Of which arithmetic the bounds are proved, in words; the `arithmetic` of certificates.

        "real", "float32", or "decomon": as decomon computes it. Behind it in brackets, where the
        model computes in half precision, that this is not covered.
        """
        name = "decomon" if self.method.startswith("decomon:") else self.arithmetic
        half = half_precision(self.model)
        if half is None:
            return name
        return f"{name} (the model computes in {half[1]}, which is not covered)"

    def bound_outputs(
        self, region: Region, constants: Sequence[Any] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of the logits over each region, softmax or sigmoid left out: two (N, *outputs).

        That is the rule for every model. With ``strip_head=False`` they are of what the model
        returns; probabilities are bounded by `bound_probabilities`. See `Verifier` for the
        guarantee and `bound_rows` for errors.

        Parameters
        ----------
        region, constants
            As for `bound_rows`.
        """
        engine = self._engine
        lower, upper = self._bound(engine, region, None, constants)
        shape = (len(region), *engine.output_shape)
        return lower.reshape(shape), upper.reshape(shape)

    def bound_probabilities(
        self, region: Region, constants: Sequence[Any] = (), *, head: str | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of the probabilities over each region: the exact image of those of log-odds.

        With d_j = f_j - f_c, each bounded as a row of its own, the softmax of class c is
        ``1 / (1 + sum over j != c of exp(d_j))``; a sigmoid is ``1 / (1 + exp(-f))``.

        Parameters
        ----------
        region, constants
            As for `bound_rows`.
        head
            "softmax" or "sigmoid": what makes probabilities of the logits. None: what the model
            ends with.

        Returns
        -------
        lower, upper
            Of the model's outputs, (N, *outputs), from 0 to 1, in the verifier's dtype.

        Raises
        ------
        ValueError
            If the region does not fit; for a model that ends with neither where `head` does not
            say what is meant; with ``strip_head=False``; and for a softmax of outputs that are not
            one row.

        Guarantee
        ---------
        That of the `Verifier` for the logits, and of their softmax or sigmoid in real arithmetic:
        what float32 rounds in these last operations is not covered.

        Examples
        --------
        >>> lower, upper = verifier.bound_probabilities(Ball(images, 0.01, clip=(0, 1)))
        """
        engine = self._engine
        head = self._probability_head(engine, head)
        shape = (len(region), *engine.output_shape)
        if head == "sigmoid":
            sides = sigmoid_bounds(*self._bound(engine, region, None, constants))
        else:
            _checked(engine, region, None, constants)
            pairs = pair_rows(engine.nb_outputs)
            found = [np.empty((2, len(region), 0))]  # of a single output, which is always 1
            found += [np.stack(self._bound(engine, region, some, constants)) for some in pairs]
            low, high = np.concatenate(found, axis=2)
            sides = softmax_bounds(low, high, engine.nb_outputs)
        lower, upper = outward(*sides, self.dtype)
        return lower.reshape(shape), upper.reshape(shape)

    def bound_rows(
        self, region: Region, rows: Rows | None = None, constants: Sequence[Any] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of linear functions ``rows @ f(x)`` of the outputs: margins, differences, sums.

        Parameters
        ----------
        region
            N regions of the model's input.
        rows
            (S, K) for all regions or (N, S, K), one set each; K is the number of outputs,
            flattened. Arrays, or margins that are made as they are needed (`margin_rows`). None:
            the outputs themselves.
        constants
            Values (N, *shape) of the inputs that do not vary, in the model's order.

        Returns
        -------
        lower, upper
            (N, S) float32 (float64 with ``dtype="float64"``).

        Raises
        ------
        ValueError
            If the region does not fit the model's input or the rows do not fit its outputs.
        """
        return self._bound(self._engine, region, rows, constants)

    def looseness(
        self,
        region: Region,
        rows: Any = None,
        constants: Sequence[Any] = (),
        *,
        seed: int = 0,
    ) -> np.ndarray:
        """How many times wider the bounds of rows are than what a short attack attains, (N,).

        The widths of all rows of a region added up, divided by the sum of the differences between
        their largest and least values that were found: at some corners, and by an ascent of ten
        steps. 1: the bounds are exact. Some tens and more: they say little of the model. inf:
        nothing is proved.

        Parameters
        ----------
        region, rows, constants
            As for `bound_rows`; None: the outputs themselves.
        seed
            Of the corners.

        Raises
        ------
        ValueError
            As `bound_rows`, and with decomon.

        No guarantee
        ------------
        A stronger attack may attain more, so that bounds may be less loose than this says.

        Examples
        --------
        >>> verifier.looseness(Ball(images, 0.01, clip=(0, 1)))          # (N,)
        """
        self._refuse_decomon("looseness")
        engine = self._engine
        if rows is None:
            rows = np.eye(engine.nb_outputs, dtype=self.dtype)
        rows = _checked(engine, region, rows, constants)
        lower, upper = self._bound(engine, region, rows, constants)
        attained = attained_rows(engine, region, rows, lower, upper, constants, seed)
        proved, found = (
            (high - low.astype(np.float64)).sum(axis=1) for low, high in ((lower, upper), attained)
        )
        sizes = np.maximum(np.abs(lower), np.abs(upper)).sum(axis=1)
        return times_wider(proved, found, rounding=1e-5 * sizes)

    def _bound(
        self, engine: Engine, region: Region, rows: Rows | None, constants: Sequence[Any]
    ) -> tuple[np.ndarray, np.ndarray]:
        rows = _checked(engine, region, rows, constants)
        compared = engine.compare(region, region.center, constants)
        if self._decomon is not None:
            return self._decomon.bound_rows(region, rows)
        question = Question(engine.queries.bounds, engine.graph.output, key=("bounds",))
        lower, upper = engine.answer(question, region, rows, constants)
        if compared is not None:
            sides = lower[compared.samples], upper[compared.samples]
            engine.confirm(compared, *sides, rows)
        return lower, upper

    def linear_bounds(
        self, region: Region, rows: Rows | None = None, constants: Sequence[Any] = ()
    ) -> LinearBounds:
        """Linear functions of the input under and over ``rows @ f(x)``; see `LinearBounds`.

        Needs "crown-ibp", "crown" or "alpha-crown" (which gives the lines of "crown"). The lines of
        many samples and rows may be larger than the memory budget: `linear_bounds_in_parts` gives
        them in parts. Errors as for `bound_rows`.

        Parameters
        ----------
        region, rows, constants
            As for `bound_rows`.
        """
        found: LinearBounds | None = None
        for samples, some, lines in self.linear_bounds_in_parts(region, rows, constants):
            if found is None:
                nb_rows = self.nb_outputs if rows is None else np.shape(rows)[-2]
                found = lines.room_for(region, nb_rows)
            found.put(samples, some, lines)
        assert found is not None  # a region holds one input at least
        return found

    def linear_bounds_in_parts(
        self,
        region: Region,
        rows: Rows | None = None,
        constants: Sequence[Any] = (),
        *,
        nb_bytes: int = 0,
    ) -> Iterator[tuple[slice, slice, LinearBounds]]:
        """`linear_bounds` of some samples and rows at a time, as many as fit the memory budget.

        Parameters
        ----------
        region, rows, constants
            As in `linear_bounds`.
        nb_bytes
            What the caller computes from the lines of one sample and row, and holds with them.

        Yields
        ------
        samples, rows, lines
            Which ones, as slices, and their lines.
        """
        self._refuse_decomon("linear_bounds")
        if self.method == "ibp":
            raise ValueError(
                "linear_bounds needs method='crown-ibp' or 'crown'. Received: method='ibp'"
            )
        engine = self._engine
        rows = _checked(engine, region, rows, constants)
        compared = engine.compare(region, region.center, constants)
        # Two sides, of which TensorFlow makes a copy while it puts them together.
        per_pair = 4 * math.prod(region.shape) * engine.budget.item_size + nb_bytes
        question = Question(engine.queries.lines, engine.graph.output, ("lines",), per_pair)
        for samples, some, sides in engine.parts(question, region, rows, constants):
            slopes_below, slopes_above, below, above = sides
            lines = LinearBounds(region[samples], slopes_below, below, slopes_above, above)
            near = None if compared is None else compared.among(samples)
            if near is not None:
                units = np.eye(engine.nb_outputs, dtype=self.dtype) if rows is None else rows
                about = units[samples, some] if units.ndim == 3 else units[some]
                engine.confirm(near, *lines.at(near.samples, near.points), about)
            yield samples, some, lines

    def bound_layer(
        self, region: Region, layer: str, constants: Sequence[Any] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of a layer's output (after its activation) over each region, (N, *shape) each.

        Parameters
        ----------
        region, constants
            As for `bound_rows`.
        layer
            The layer's name; for a layer of a nested model "nested/layer".
        """
        self._refuse_decomon("bound_layer")
        engine = self._engine
        graph = engine.graph
        if layer not in graph.layers:
            raise ValueError(f"layer must be one of {', '.join(graph.layers)}. Received: {layer!r}")
        if layer in graph.ambiguous:
            raise ValueError(
                f"layer must name one tensor: a layer of one output that is called once. "
                f"Received: {layer!r}, which {graph.ambiguous[layer]}"
            )
        _checked(engine, region, None, constants)
        engine.compare(region, region.center, constants)
        node = graph.layers[layer]
        # Bounds of all entries, by rows that the engine chooses, come in one row.
        one_row = np.zeros((1, math.prod(graph.nodes[node].shape)), dtype=self.dtype)
        question = Question(engine.queries.entries, node, key=("entries",))
        lower, upper = engine.answer(question, region, one_row, constants)
        return lower[:, 0], upper[:, 0]

    def bound_gradient(
        self,
        region: Region,
        rows: Rows | None = None,
        *,
        labels: np.ndarray | None = None,
        method: str | None = None,
        gamma: Any = 0.0,
        bias_radius: Any = None,
        constants: Sequence[Any] = (),
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of every input gradient over each region, and over a region of weights.

        Parameters
        ----------
        region
            N regions of the model's input; with ``epsilon=0`` the inputs themselves.
        rows
            (S, K) or (N, S, K): the gradients of these linear functions of the logits are bounded.
            None: those of all K logits, or with `labels` that of the loss.
        labels
            (N,) integers: the gradient of the cross-entropy of these labels (of the softmax; of the
            sigmoid for a single logit) is bounded, and S is 1.
        method
            "ibp" (forward and backward by intervals, as in the paper), "ibp-crown" (backward by
            intervals, the inputs of activations by CROWN), "crown-ibp" (one backward pass through
            linear bounds of the backpropagation, placed by intervals), "crown" (the same with
            backward passes inside). All are intersected with intervals. Default: that of the
            verifier.
        gamma
            Every weight w may be anything in [w - gamma |w|, w + gamma |w|]: a number or (N,). The
            weights of normalization layers' moving statistics are fixed.
        bias_radius
            Biases may be off by this much, a number or (N,); 0 fixes them. None: as `gamma` says.
        constants
            As for `bound_rows`.

        Returns
        -------
        lower, upper
            (N, S, *input), in the verifier's dtype.

        Raises
        ------
        ValueError
            If region, rows, labels or radii do not fit, or for an unknown method.
        UnsupportedLayerError
            For a derivative, or weights, that cannot be bounded; the message names the layer.

        Guarantee
        ---------
        That of the `Verifier`, for the gradient at every point of the region and with all weights
        of theirs. Where an activation has a kink or two entries are both the largest, the slopes of
        both sides and all between are covered: whatever a library returns there is
        (but for `celu` at exactly 0: TensorFlow's gradient of the formula of Keras is 2 there).
        With ``arithmetic="float32"`` it is backpropagation in float32 that is covered, derivatives
        of activations right to the units that `Activation.ulps` and `absolute_ulps` state.

        Sources: Wicker et al., Robust Explanation Constraints for Neural Networks, 2023; Shi et
        al., Efficiently Computing Local Lipschitz Constants, 2022.

        Examples
        --------
        >>> lower, upper = verifier.bound_gradient(Ball(images, 0.01), rows=[[0.0, 1.0, 0.0]])
        """
        self._refuse_decomon("bound_gradient")
        if method is None:
            method = "crown" if self.method == "alpha-crown" else self.method
        method = gradient_method(method, stacklevel=3)
        engine = self._engine
        if labels is not None:
            rows = self._label_rows(engine, rows, labels, len(region))
        rows = _checked(engine, region, rows, constants)
        engine.compare(region, region.center, constants)
        radii = weight_radii(gamma, bias_radius, len(region))
        if radii:
            check_weights(engine.graph, layers_of(self.model))
        loss = "logits" if labels is None else "cross-entropy"
        graph = engine.gradients(loss)
        question = Question(
            partial(engine.queries.gradients, graph, method),
            engine.graph.output,
            key=("gradient", loss, method),
            pairs_at_once=engine.budget.nb_samples(graph.graph),
        )
        lower, upper = engine.answer(question, region, rows, constants, radii)
        return lower, upper

    def decide(
        self,
        region: Region,
        rows: Any,
        limits: Any,
        constants: Sequence[Any] = (),
        *,
        timeout: float | None = 60.0,
        nb_branches: int | None = None,
        strategy: str = "auto",
        seed: int = 0,
        verbose: bool = False,
        proof: bool = False,
    ) -> Decision:
        """Whether a property holds on each region, or a counterexample: branch and bound.

        Region n is *violated* if some x in it and some p have ``rows[p, j] @ f(x) <= limits[p, j]``
        for all j, and it *holds* if there is none. `stays_in_class` makes such a property of
        classes.

        Parameters
        ----------
        region
            N regions of the model's input.
        rows
            (P, J, K) for all regions or (N, P, J, K): a union of P conjunctions of J inequalities
            of the K outputs, flattened.
        limits
            (P, J) or (N, P, J). inf is no condition; with -inf conjunction p is never fulfilled.
        constants
            As for `bound_rows`.
        timeout
            Seconds that the call may take, about; None: no limit.
        nb_branches
            Most branches of one region; None: no limit.
        strategy
            "activations": branches differ in the intervals before activations. "inputs": they are
            boxes of inputs. "auto": inputs where at most 8 features vary, else activations.
        seed
            Of the attack.
        verbose
            Whether to show how many branches are open, and the worst bound.
        proof
            Whether to keep how regions were cut and what was proved of each part, in
            `Decision.proof`: about 40 bytes a branch. `recheck` proves it once more.

        Returns
        -------
        decision
            A `Decision`. An interrupted call (Ctrl-C) returns what is known by then.

        Raises
        ------
        ValueError
            If the region, the property or a setting does not fit.

        Guarantee
        ---------
        That of `Decision`.

        Examples
        --------
        >>> from xcertify.bounds import stays_in_class
        >>> rows, limits = stays_in_class(classes, nb_outputs=10)
        >>> verifier.decide(Ball(images, 0.05, clip=(0, 1)), rows, limits, timeout=30.0).status
        """
        self._refuse_decomon("decide")
        nb_branches = _check_limits(timeout, nb_branches, strategy)
        engines = self._derive_engine("crown"), self._derive_engine("alpha-crown")
        rows, limits = check_property(rows, limits, len(region), engines[0].nb_outputs, self.dtype)
        _checked(engines[0], region, None, constants)
        if not isinstance(region, Words):
            refuse_few_changed(region, "decide")
        elif proof:
            refuse_words(region, "decide(..., proof=True)")
        decider = Decider(
            engines,
            partial(self._bound, engines[0]),
            region,
            rows,
            limits,
            [np.asarray(values) for values in constants],
            timeout=timeout,
            nb_branches=nb_branches,
            strategy=strategy,
            seed=seed,
            verbose=verbose,
            proof=self._proof if proof else None,
        )
        return decider.decide()

    def recheck(
        self,
        proof: ProofTree,
        region: Region | None = None,
        rows: Any = None,
        limits: Any = None,
        constants: Sequence[Any] | None = None,
        *,
        dtype: str = "float64",
    ) -> np.ndarray:
        """Prove a decision anew from its tree, without the search, (N,) bool.

        Parameters
        ----------
        proof
            Of ``decide(..., proof=True)``, or loaded from a file.
        region, rows, limits, constants
            What you mean to be proved, as for `decide`: it has to be what the proof is about. None:
            that is not looked at.
        dtype
            In which bounds are computed: "float32" takes less time, but proves no more than
            "float64".

        Returns
        -------
        proved
            True where a region is cut into parts that cover it, each of which was now bounded and
            fulfils the property. A leaf whose bounds come out worse than before is cut further, a
            little. False where the tree is not complete (what was violated or unknown), and for
            what could not be proved again, of which a warning names the leaves.

        Raises
        ------
        ValueError
            If the tree was changed since it was made, is none, or is of another model or question;
            the message names what is wrong.

        Guarantee
        ---------
        That of "holds" in `Decision`, for this verifier's network and `arithmetic`, whoever made
        the file.

        Examples
        --------
        >>> verifier.decide(region, rows, limits, proof=True).proof.save("proof.npz")
        >>> verifier.recheck(ProofTree.load("proof.npz"), region, rows, limits).all()
        True
        """
        self._refuse_decomon("recheck")
        if dtype not in ("float32", "float64"):
            raise ValueError(f"dtype must be 'float32' or 'float64'. Received: {dtype!r}")
        if hash_of_weights(self.model) != proof.fingerprint:
            raise ValueError(
                f"the weights of the model '{self.model.name}' are not those that the proof is for"
            )
        own = self._bounded
        other = {name: proof.settings.get(name) for name in own}
        if other != own:
            raise ValueError(f"the proof is for a verifier with {other}. Received: {own}")
        proof.check()
        if region is not None:
            refuse_few_changed(region, "recheck")
            refuse_words(region, "recheck")
        check_question(proof, region, rows, limits, constants)
        engines = self._derive_engine("crown", dtype), self._derive_engine("alpha-crown", dtype)
        size = engines[0].nb_outputs
        check_property(proof.rows, proof.limits, len(proof.region), size, dtype)
        _checked(engines[0], proof.region, None, proof.constants)
        return recheck(proof, engines, partial(self._bound, engines[0]))

    def attack(
        self,
        region: Region,
        rows: Any,
        limits: Any,
        constants: Sequence[Any] = (),
        *,
        starts: Any = None,
        nb_steps: int = 40,
        restarts: int = 8,
        seed: int = 0,
        timeout: float | None = None,
    ) -> WorstPoints:
        """Look for points that violate a property, as `decide` does before it proves anything.

        Parameters
        ----------
        region, rows, limits, constants
            As for `decide`.
        starts
            (S, N, *input): points to begin with, instead of random ones; they are moved into the
            regions.
        nb_steps, restarts
            Of the ascents; 0 restarts: the first points are all that is looked at.
        seed
            Of whatever is random.
        timeout
            Seconds after which nothing is begun, about; None: no limit.

        Returns
        -------
        worst
            `WorstPoints`: of each region the point that is nearest to a violation, or violates.

        Raises
        ------
        ValueError
            As `decide`; and for starts of another shape.

        Guarantee
        ---------
        Where `violated`, that of "violated" in `Decision`. **No guarantee** that there is no
        counterexample elsewhere.

        Examples
        --------
        >>> rows, limits = stays_in_class(classes, nb_outputs=10)
        >>> verifier.attack(Ball(images, 0.05, clip=(0, 1)), rows, limits).violated    # (N,) bool
        """
        self._refuse_decomon("attack")
        _check_limits(timeout, None, "auto")
        engine = self._derive_engine("crown")
        rows, limits = check_property(rows, limits, len(region), engine.nb_outputs, self.dtype)
        _checked(engine, region, None, constants)
        engine.compare(region, region.center, constants)
        if starts is not None and np.shape(starts)[1:] != region.center.shape:
            raise ValueError(
                f"starts must be points (S, N, *input), (S, *{region.center.shape}). "
                f"Received: shape {np.shape(starts)}"
            )
        found = attack(
            engine,
            region,
            rows,
            limits,
            [np.asarray(values) for values in constants],
            starts=None if starts is None else np.asarray(starts),
            nb_steps=whole_number("nb_steps", nb_steps),
            restarts=whole_number("restarts", restarts, least=0),
            seed=seed,
            deadline=math.inf if timeout is None else time.monotonic() + timeout,
            proves_all=False,
        )
        return WorstPoints(found.points, found.least, found.violated)

    @property
    def _bounded(self) -> dict[str, Any]:
        """What function of the model is bounded: settings that say it."""
        graph = self._engine.graph
        names = ("start_layer", "perturbed", "output")
        is_stripped = graph.output != graph.result
        return {name: getattr(self, name) for name in names} | {"strip_head": is_stripped}

    def _proof(self, **parts: Any) -> ProofTree:
        names = ("dtype", "arithmetic", "lower_slope", "backward_depth")
        settings = {name: getattr(self, name) for name in names} | self._bounded
        found = hash_of_weights(self.model)
        return ProofTree(settings=settings, fingerprint=found, **parts)

    def radius(
        self,
        inputs: Any,
        targets: Any = None,
        *,
        norm: Norm = np.inf,
        clip: tuple[Any, Any] | None = None,
        largest: float = 1.0,
        nb_halvings: int = 8,
        constants: Sequence[Any] = (),
        timeout: float | None = 60.0,
        nb_branches: int | None = None,
        strategy: str = "auto",
        seed: int = 0,
        verbose: bool = False,
    ) -> Interval:
        """How far inputs may move and stay in their class: between what is proved and attacked.

        An attack shows where to look, bounds prove a part of it, and `decide` halves what is left.

        Parameters
        ----------
        inputs
            (N, *shape).
        targets
            Classes: integer labels (N,), one-hot rows (N, K), or None for the predicted ones.
        norm, clip
            Of the balls, as for `Ball`.
        largest
            The largest radius that is tested, in units of the inputs.
        nb_halvings
            Both ends come as close to each other as the attacked radius (or the largest one)
            divided by two to this power, where all is decided in time.
        timeout
            Seconds that the whole call may take, about; None: no limit.
        constants, nb_branches, strategy, seed
            As for `decide`.
        verbose
            Whether to show progress bars.

        Returns
        -------
        interval
            `certified`, (N,) float64: the largest radius of those tested within which the class is
            proved to stay. `attacked`, (N,): the least distance of a counterexample, inf where none
            was found. Both are 0 where an input itself is of another class. An interrupted call
            (Ctrl-C) returns what is known by then.

        Raises
        ------
        ValueError
            If the inputs, the targets or a setting do not fit.
        ContradictionError
            If a counterexample is nearer than what is certified: a bug, to be reported.

        Guarantee
        ---------
        Of `certified`, that of `Decision`. **No guarantee** that no counterexample is nearer than
        `attacked`, unless it is that near to `certified`.

        Examples
        --------
        >>> interval = verifier.radius(images, labels, clip=(0, 1), timeout=30.0)
        >>> interval.certified, interval.attacked               # (N,), (N,)
        """
        self._refuse_decomon("radius")
        engine = self._derive_engine("crown")
        if head_of(engine.graph) == "sigmoid" and engine.graph.output == engine.graph.result:
            raise ValueError(
                f"radius is of classes, which logits show: use strip_head=True. "
                f"Received: strip_head={self.strip_head!r}"
            )
        refuse_other_than_classes(engine.output_shape, head_of(engine.graph))
        nb_branches = _check_limits(timeout, nb_branches, strategy)
        balls = Ball(inputs, 0.0, norm, clip)
        constants = [np.asarray(values) for values in constants]
        _checked(engine, balls, None, constants)
        logits = self.evaluate(balls.center, constants).reshape(len(balls), -1)
        return decided_radii_of_balls(
            self,
            balls,
            target_classes(logits, targets),
            positive("largest", largest),
            whole_number("nb_halvings", nb_halvings),
            constants=constants,
            attack=partial(attack, engine, restarts=2, seed=seed),
            timeout=timeout,
            nb_branches=nb_branches,
            strategy=strategy,
            seed=seed,
            verbose=verbose,
        )

    def _derive_engine(self, method: str, dtype: str | None = None) -> Engine:
        """The engine of another method, and of another type than that of the verifier."""
        dtype = self.dtype if dtype is None else dtype
        return self._derive(("engine", method, dtype), lambda: self._shared_engine(method, dtype))

    def evaluate(self, inputs: np.ndarray, constants: Sequence[Any] = ()) -> np.ndarray:
        """The bounded function itself (logits), (N, *outputs), in the verifier's dtype.

        Parameters
        ----------
        inputs
            (N, *shape), as the model takes them.
        constants
            As for `bound_rows`.

        Raises
        ------
        ValueError
            If the constants do not fit, or an output is NaN or infinite; the message names a layer
            whose weights are.
        """
        engine = self._engine
        arrays = [np.asarray(values) for values in (inputs, *constants)]
        others = [(len(arrays[0]), *shape) for shape in engine.input_shapes[1:]]
        check_constants(arrays[1:], others, engine.constant_types)
        engine.compare(None, arrays[0], arrays[1:])
        return engine.evaluate(arrays)

    @property
    def nonlinear_layers(self) -> list[str]:
        """Names of the layers, up to the outputs, that are not affine.

        Without any, bounds are exact on boxes but for roundings.
        """
        graph = self._engine.graph
        nodes = [graph.nodes[index] for index in graph.ancestors([graph.output])]
        return list(dict.fromkeys(n.layer for n in nodes if not n.operation.exact_affine))

    @property
    def nb_outputs(self) -> int:
        """Number K of outputs, flattened."""
        return self._engine.nb_outputs

    @property
    def depth(self) -> int | None:
        """What `backward_depth` is, or comes to if it is "auto"; None: all layers."""
        if self.method not in ("crown", "alpha-crown"):
            return 0
        return self._engine.queries.depth(self._engine.graph.output)

    @property
    def is_large(self) -> bool:
        """Whether rows of inner tensors do not go back, so that "crown" is "crown-ibp".

        With ``backward_depth="auto"`` networks at which one such pass would take many seconds.
        """
        return self._engine.is_large

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, or of what `start_layer` gives, without the batch axis."""
        return self._engine.input_shapes[0]

    @property
    def nb_constants(self) -> int:
        """How many further inputs the network has, which do not vary: the `constants` of calls."""
        return len(self._engine.input_shapes) - 1

    @property
    def _engine(self) -> Engine:
        """The network as it is now: read anew if anything but weights has changed.

        All verifiers of one model and of the same settings have one.
        """
        return self._derive("engine", lambda: self._shared_engine(self.method, self.dtype))

    def _shared_engine(self, method: str, dtype: str) -> Engine:
        alternatives = method == "alpha-crown"
        budget = Budget(self.memory_budget, dtype, nb_versions=1 + alternatives)
        options = Options(
            dtype,
            "float32" if self.arithmetic == "float32" else None,
            self.lower_slope,
            alternatives,
            self.backward_depth,
        )
        left_out: tuple[str, ...] = HEADS if self.strip_head else ()
        if self.logits is not None:
            left_out = HEADS if self.logits else ("softmax",)
        network = Network(self.model, self.start_layer, self.perturbed, self.output, left_out)
        optimizer = (self.nb_steps, self.learning_rate) if alternatives else (0, 0.0)
        settings = (network, method, options, budget, optimizer, self.compile)
        state = self._watched()
        return shared(self.model, settings, state, lambda: Engine(*settings, state))

    @property
    def _decomon(self) -> Any:
        """decomon's bounds of the model, None for a native method."""
        if not self.method.startswith("decomon:"):
            return None
        strip_head = self._engine.graph.output != self._engine.graph.result
        method = self.method.removeprefix("decomon:")

        def make() -> Any:
            from xcertify.bounds.decomon import DecomonBackend

            return DecomonBackend(self.model, method, strip_head)

        return self._derive_shared(("decomon", method, strip_head), make)

    def _watched(self) -> Any:
        return super()._watched(), registered_rules()

    # --- refused ----------------------------------------------------------------------------------

    def _check_method(self) -> None:
        by_decomon = str(self.method).startswith("decomon:")
        if not by_decomon and self.method not in METHODS:
            raise ValueError(
                f"method must be one of {', '.join(METHODS)} or 'decomon:<method>'. "
                f"Received: {self.method!r}"
            )
        native = {"start_layer": None, "dtype": "float32", "arithmetic": "real", "perturbed": 0}
        native |= {"output": 0, "lower_slope": "adaptive"}
        if self.backward_depth is not None:  # which says as little as the default
            native["backward_depth"] = "auto"
        for name, default in native.items():
            if by_decomon and getattr(self, name) != default:
                raise ValueError(
                    f"{name} can be chosen with the methods {', '.join(METHODS)} only. "
                    f"Received: {name}={getattr(self, name)!r} with method={self.method!r}"
                )

    def _check_precision(self) -> None:
        half = half_precision(self.model)
        if self.arithmetic == "float32" and half is not None:
            raise UnsupportedLayerError(
                f"The layer '{half[0]}' of the model '{self.model.name}' computes in {half[1]}, "
                f"whose roundings are not covered by arithmetic='float32'. Use arithmetic='real', "
                f"for bounds of the network in real arithmetic, or a copy of the model in float32."
            )

    def _warn_of_the_former_name(self) -> None:
        if self.logits is not None:
            cure = "True" if self.logits else "True for a softmax, strip_head=False for a sigmoid"
            warnings.warn(
                f"logits={self.logits} is deprecated. Write strip_head={cure}",
                DeprecationWarning,
                stacklevel=4,  # behind this method, the constructor, and the call of the class
            )

    def _probability_head(self, engine: Engine, head: str | None) -> str:
        """What makes probabilities of the logits: as it was said, or as the model ends."""
        own = head_of(engine.graph)
        if own is not None and engine.graph.output == engine.graph.result:
            raise ValueError(
                f"bound_probabilities needs bounds of the logits: use strip_head=True. With "
                f"strip_head=False those of the {own} are bound_outputs. "
                f"Received: strip_head={self.strip_head!r}"
            )
        known = HEADS if own is None else (own, None)
        if head not in known:
            raise ValueError(
                f"head must be {' or '.join(map(repr, known))} for the model "
                f"'{self.model.name}', which ends with {own or 'neither'}. Received: {head!r}"
            )
        head = own if head is None else head
        assert head is not None
        if head == "softmax" and math.prod(engine.output_shape[:-1]) != 1:
            raise ValueError(
                f"bound_probabilities of a softmax needs one row of outputs. With strip_head=False "
                f"others are bound_outputs. Received: outputs of shape {engine.output_shape}"
            )
        return head

    def _refuse_decomon(self, what: str) -> None:
        if self._decomon is not None:
            raise ValueError(
                f"{what} is not available through decomon. Use method='crown' or 'crown-ibp'. "
                f"Received: method={self.method!r}"
            )

    def _label_rows(self, engine: Engine, rows: Any, labels: Any, nb_samples: int) -> np.ndarray:
        if rows is not None:
            raise ValueError("give rows of the logits, or labels of the loss, not both")
        head = head_of(engine.graph)
        if head is not None and engine.graph.output == engine.graph.result:
            raise ValueError(
                f"labels need logits, which are what comes before the {head} at the end of the "
                f"model. Use strip_head=True. Received: strip_head={self.strip_head!r}"
            )
        return label_rows(labels, nb_samples, engine.output_shape, self.dtype)


def _check_limits(timeout: float | None, nb_branches: int | None, strategy: str) -> int | None:
    """`nb_branches` as a number, once all of them are known to fit."""
    if timeout is not None and not timeout >= 0:
        raise ValueError(f"timeout must be seconds, or None. Received: {timeout!r}")
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}. Received: {strategy!r}")
    return None if nb_branches is None else whole_number("nb_branches", nb_branches)


def _checked(engine: Engine, region: Region, rows: Any, constants: Sequence[Any]) -> Any:
    """The rows as they are, once they and the others are known to fit."""
    varied, *others = engine.input_shapes
    check_region(region, varied)
    check_constants(constants, [(len(region), *shape) for shape in others], engine.constant_types)
    if rows is None:
        return None
    return check_rows(rows, len(region), engine.nb_outputs, engine.dtype)
