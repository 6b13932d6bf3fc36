"""All that the engine asks of TensorFlow itself; the rest of the numerics is `keras.ops`.

The vector-Jacobian product of a linear function, compilation with a stable signature, and loops
that run inside the compiled function and bound its memory.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from xcertify.bounds.rounding import block_size
from xcertify.progress import compiling
from xcertify.tracing import graph_of

_CALLS_OF_A_GRAPH = 12  # of a shared function, that take as long as to make a graph of it

# Functions of TensorFlow by the name of the same function in `keras.activations`.
ACTIVATIONS: dict[Callable, str] = {
    tf.identity: "linear",
    tf.nn.relu: "relu",
    tf.nn.relu6: "relu6",
    tf.nn.leaky_relu: "leaky_relu",
    tf.nn.elu: "elu",
    tf.nn.selu: "selu",
    tf.nn.gelu: "gelu",
    tf.nn.silu: "silu",
    tf.nn.sigmoid: "sigmoid",
    tf.math.log_sigmoid: "log_sigmoid",
    tf.nn.tanh: "tanh",
    tf.nn.softplus: "softplus",
    tf.nn.softsign: "softsign",
    tf.nn.softmax: "softmax",
    tf.math.exp: "exponential",
}


def transpose(linear: Callable[..., Any], shapes: Sequence[tuple], cotangent: Any) -> list[Any]:
    """The transposed linear map applied to `cotangent` (B, *out): one (B, *shape) per input.

    The function is differentiated at zero; inside a compiled function its own forward pass is
    pruned, so a convolution costs one transposed convolution.
    """
    nb_samples = tf.shape(cotangent)[:1]
    zeros = [tf.zeros(tf.concat([nb_samples, shape], 0), cotangent.dtype) for shape in shapes]
    zeros = [tf.ensure_shape(zero, (None, *shape)) for zero, shape in zip(zeros, shapes)]
    with tf.GradientTape() as tape:
        tape.watch(zeros)
        outputs = linear(*zeros)
    gradients = tape.gradient(
        outputs, zeros, cotangent, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    return [tf.ensure_shape(g, (None, *shape)) for g, shape in zip(gradients, shapes)]


class Compiled:
    """A function of tensors, run operation by operation until it is worth a graph.

    Parameters
    ----------
    function
        Of tensors; arrays are nothing but constants to it.
    signature
        Shape and type of its arguments, None for the axes that may vary.
    variables
        Keras variables that it reads. Their values are further arguments of the graph, passed at
        every call: a compiled function cannot hold old ones.
    only_if_possible
        Whether it is run without a graph for ever where none can be made, as of a user's layer of
        NumPy arrays; else what fails is raised.
    """

    def __init__(
        self,
        function: Callable,
        signature: Sequence[tuple[tuple, str]],
        variables: Sequence[Any] = (),
        only_if_possible: bool = False,
    ) -> None:
        self._function, self._signature, self._variables = function, signature, variables
        self._dtypes = [dtype for _, dtype in signature]
        self._spent = 0.0
        self._graph: Callable | None = None
        self._only_if_possible, self._is_impossible = only_if_possible, False
        self._lock = threading.Lock()

    def __call__(self, *arrays: Any, share: float = math.inf) -> Any:
        """The function at some arrays.

        Parameters
        ----------
        arrays
            Its arguments.
        share
            What the call would take without a graph, as a share of what it takes to make one. Once
            all shares add up to more than 1, the graph is made, and used from then on.
        """
        tensors = map(tf.convert_to_tensor, arrays, self._dtypes)
        with self._lock:
            self._spent += share
            wanted = self._spent > 1
        with compiling(wanted and self._graph is None):  # the first run of a graph optimises it
            if wanted:
                self.trace()
            if self._graph is None:
                return self._function(*tensors)
            return self._graph(*tensors, *map(_value, self._variables))

    def trace(self) -> None:
        """Make the graph now, once, also where several threads ask for it."""
        with self._lock:
            if self._graph is not None or self._is_impossible:
                return
            try:
                self._graph = _bare(self._traced())
            except Exception:
                if not self._only_if_possible:
                    raise
                self._is_impossible = True

    def _traced(self) -> Any:
        if not self._variables:
            return _traced(self._function, self._signature)

        def of_values(*tensors: Any) -> Any:
            values = tensors[len(self._dtypes) :]
            with keras.StatelessScope(zip(self._variables, values)):
                return self._function(*tensors[: len(self._dtypes)])

        values = [(tuple(variable.shape), variable.dtype) for variable in self._variables]
        return _traced(of_values, [*self._signature, *values])


def _traced(function: Callable, signature: Sequence[tuple[tuple, str]]) -> Any:
    specs = [tf.TensorSpec(shape, dtype) for shape, dtype in signature]
    if accelerators() and on_cpu():
        function = partial(_on_cpu, function)
    return graph_of(function, input_signature=specs, autograph=False).get_concrete_function()


def _bare(graph: Any) -> Callable:
    """A graph that takes the tensors of its signature in their order, unchecked.

    TensorFlow's own call binds each one to a name and a type, which takes longer than to run a
    small graph. What is called here has no public name; where it is missing, that call is used.
    """
    run = getattr(getattr(graph, "_inference_function", None), "call_flat", None)
    if run is None or graph.captured_inputs:
        return graph
    return lambda *tensors: tf.nest.pack_sequence_as(graph.structured_outputs, run(*tensors))


def _on_cpu(function: Callable, *tensors: Any) -> Any:
    """A graph would else follow the `tf.device` of each call, and its kernels are for a CPU."""
    with tf.device("CPU"):
        return function(*tensors)


def accelerators() -> list[str]:
    """Names of the devices beside the CPU that TensorFlow computes on, such as "GPU:0"."""
    devices = tf.config.list_logical_devices()
    return [device.name for device in devices if "CPU" not in device.device_type]


def on_cpu() -> bool:
    """Whether work goes to a CPU now: there is nothing else, or `tf.device` says so."""
    if not accelerators():
        return True
    with tf.init_scope():  # also while a graph is made
        return tf.DeviceSpec.from_string(tf.zeros(()).device).device_type == "CPU"


def by_cpu(function: Callable[[], Any]) -> Any:
    """What a function of a user's model gives, by the kernels of a CPU, whose roundings are known.

    Where a CPU has no such kernel, as for some with the channels first, by those of the device.
    """
    if accelerators():
        try:
            return _on_cpu(function)
        except tf.errors.OpError:
            pass
    return function()


def device_memory() -> int | None:
    """Bytes of the memory of the device that work goes to now, as far as TensorFlow may take them.

    None for a CPU, and where TensorFlow does not say it.
    """
    if on_cpu():
        return None
    with tf.init_scope():
        name = tf.zeros(()).device
    try:  # TensorFlow 2 has no public way
        from tensorflow.python import pywrap_tfe
        from tensorflow.python.client import pywrap_tf_session as session
        from tensorflow.python.eager import context

        devices = pywrap_tfe.TFE_ContextListDevices(context.context()._handle)
        for number in range(session.TF_DeviceListCount(devices)):
            if session.TF_DeviceListName(devices, number) == name:
                return session.TF_DeviceListMemoryBytes(devices, number)
    except (ImportError, AttributeError, TypeError):
        pass
    return None


def _value(variable: Any) -> Any:
    """The value of a variable as it is now, without a copy.

    Keras and TensorFlow have ways that are called by nicer names and take five times as long.
    """
    stored = variable.value
    return tf.raw_ops.ReadVariableOp(resource=stored.handle, dtype=stored.dtype)


class Shared:
    """A function of float64 tensors, entry by entry, that graphs call and do not write out.

    Parameters
    ----------
    function
        Of flat tensors; gives a tuple of such. It reads nothing else.
    nb_inputs
        How many tensors it takes.
    """

    def __init__(self, function: Callable, nb_inputs: int) -> None:
        self._function, self._nb_calls = function, 0
        self._graph = graph_of(
            function,
            input_signature=[tf.TensorSpec((None,), tf.float64)] * nb_inputs,
            autograph=False,
            experimental_attributes={"_noinline": True},
        )

    def __call__(self, *tensors: Any) -> tuple:
        """The function at tensors of one shape; without a graph until that is worth one."""
        function = self._graph
        if tf.executing_eagerly() and self._nb_calls < _CALLS_OF_A_GRAPH:
            self._nb_calls += 1
            function = self._function
        first = tensors[0]
        found = function(*(tf.reshape(tensor, [-1]) for tensor in tensors))
        back = [tf.reshape(values, tf.shape(first)) for values in found]
        return tuple(tf.ensure_shape(values, first.shape) for values in back)


def output_shape(function: Callable, shapes: Sequence[tuple], dtype: str) -> tuple[int, ...]:
    """Shape of ``function(*inputs)`` without the batch axis."""
    with tf.__internal__.FuncGraph("shapes").as_default():  # in half the time of a function
        inputs = [tf.compat.v1.placeholder(dtype, (None, *shape)) for shape in shapes]
        return tuple(function(*inputs).shape[1:])


def loop_over_chunks(body: Callable, total: Any, chunk: Any, carried: list[Any]) -> list[Any]:
    """Run ``carried = body(start, stop, *carried)`` over [0, total) in steps of `chunk`.

    `total` and `chunk` may be tensors; one chunk is held in memory at a time.
    """

    def step(start: Any, *state: Any) -> tuple:
        return (start + chunk, *body(start, tf.minimum(start + chunk, total), *state))

    shapes = [tf.TensorShape([]), *(value.shape for value in carried)]
    _, *carried = tf.while_loop(
        lambda start, *_: start < total,
        step,
        [tf.constant(0), *carried],
        shape_invariants=shapes,
        parallel_iterations=1,
    )
    return carried


def rows_in_chunks(
    function: Callable[[Any, Any], Sequence[Any]],
    nb_samples: Any,
    nb_rows: Any,
    chunk: Any,
    results: Sequence[tuple[tuple, str]],
) -> list[Any]:
    """Results ``function(first, last)``, (N, last - first, *shape), of all rows, (N, S, *shape).

    `results` are the shape and type of each; the function sees `chunk` rows at a time.
    """
    carried = []
    for shape, dtype in results:
        zeros = tf.zeros(tf.concat([tf.stack([nb_samples, nb_rows]), shape], 0), dtype)
        carried.append(tf.ensure_shape(zeros, (None, None, *shape)))

    def body(first: Any, last: Any, *found: Any) -> list[Any]:
        places = tf.meshgrid(tf.range(nb_samples), tf.range(first, last), indexing="ij")
        where = tf.stack(places, axis=-1)
        news = function(first, last)
        return [tf.tensor_scatter_nd_update(old, where, new) for old, new in zip(found, news)]

    return loop_over_chunks(body, nb_rows, chunk, carried)


def by_places(function: Callable[[Any, Any], Any], inputs: Any, output: Any, largest: int) -> Any:
    """``function(inputs, output)`` of tensors (N, *place, ...), on some places at a time.

    `inputs`, `output` and the result are tensors, None, or tuples of such. The function works place
    by place, whatever axes a tensor has behind those of the place, which are all that `output` has.
    Small tensors are not parted.
    """
    place = tf.nest.flatten(output)[0].shape[1:]
    size = math.prod(place)
    part = block_size(size, largest)
    if size <= largest or part < largest // 2**7:
        return function(inputs, output)
    arguments = tf.nest.flatten((inputs, output))
    parted = [tf.reshape(t, (-1, part, *t.shape[len(place) + 1 :])) for t in arguments]

    def on_part(parts: Sequence[Any]) -> Any:
        return function(*tf.nest.pack_sequence_as((inputs, output), parts))

    def put_together(leaf: Any, *others: Any) -> Any:
        if leaf is None:
            return None
        return tf.reshape(tf.stack([leaf, *others]), (-1, *place, *leaf.shape[1:]))

    if tf.executing_eagerly():  # a loop of TensorFlow's would rewrite the function each time
        nb_parts = int(parted[0].shape[0])
        found = [on_part([tensor[number] for tensor in parted]) for number in range(nb_parts)]
        return tf.nest.map_structure(put_together, *found)
    # Called once more to see what comes back; nothing of it is computed.
    shown = on_part([tensor[0] for tensor in parted])
    present = [leaf for leaf in tf.nest.flatten(shown) if leaf is not None]
    found = tf.map_fn(
        lambda parts: [leaf for leaf in tf.nest.flatten(on_part(parts)) if leaf is not None],
        parted,
        parallel_iterations=1,
        fn_output_signature=[tf.TensorSpec(leaf.shape, leaf.dtype) for leaf in present],
    )
    results = iter(found)
    return tf.nest.map_structure(
        lambda leaf: (
            None if leaf is None else tf.reshape(next(results), (-1, *place, *leaf.shape[1:]))
        ),
        shown,
    )


def minimize(
    function: Callable[[list[Any]], Any],
    start: list[Any],
    least: Sequence[float],
    nb_steps: int,
    learning_rate: float,
) -> Any:
    """Least values of a function of shares up to 1, entry by entry over all steps of Adam.

    `function` maps a list of (N, S, ...) to (N, S), and each of its values depends on its own
    shares only, of which `least` has the smallest possible values. The value at `start` counts, so
    that nothing gets worse.
    """
    if not start:
        return function(start)

    def step(number: Any, best: Any, *state: Any) -> tuple:
        shares, means, squares = (state[i::3] for i in range(3))
        with tf.GradientTape() as tape:
            tape.watch(shares)
            values = function(list(shares))
        gradients = tape.gradient(values, shares, unconnected_gradients="zero")
        moved = []
        power = tf.cast(number + 1, shares[0].dtype)
        for share, low, mean, square, gradient in zip(shares, least, means, squares, gradients):
            mean = 0.9 * mean + 0.1 * gradient
            square = 0.999 * square + 0.001 * gradient * gradient
            size = tf.sqrt(square / (1 - 0.999**power)) + 1e-12
            change = learning_rate * mean / (1 - 0.9**power) / size
            moved += [tf.clip_by_value(share - change, low, 1.0), mean, square]
        return (number + 1, tf.minimum(best, values), *moved)

    state = [tensor for share in start for tensor in (share, share * 0, share * 0)]
    best = function(start)
    _, best, *state = tf.while_loop(
        lambda number, *_: number < nb_steps,
        step,
        [tf.constant(0), best, *state],
        parallel_iterations=1,
    )
    return tf.minimum(best, function(list(state[::3])))


def minimize_and_keep(
    function: Callable[[list[Any]], Any],
    start: list[Any],
    largest: Sequence[float],
    rates: Sequence[float],
    nb_steps: Any,
    enough: Any,
) -> tuple[Any, list[Any]]:
    """Least values of a function of variables from 0 to `largest`, and where they are.

    Parameters
    ----------
    function
        Maps a list of (N, S, ...) to (N, S); each of its values depends on its own variables only.
    start
        The variables to begin with; they count, so that nothing gets worse.
    largest
        Upper limit of each variable.
    rates
        Length of the first steps of each variable; it shrinks by 2 % with every step.
    nb_steps
        Most steps of Adam, a tensor.
    enough
        (N, S): no more steps are made once each of N has one value that is at most this.
    """
    values = function(start)

    def step(number: Any, best: Any, *state: Any) -> tuple:
        variables, means, squares, found = (list(state[i::4]) for i in range(4))
        with tf.GradientTape() as tape:
            tape.watch(variables)
            values = function(variables)
        gradients = tape.gradient(values, variables, unconnected_gradients="zero")
        better = values < best
        power = tf.cast(number + 1, variables[0].dtype)
        moved = []
        for i, gradient in enumerate(gradients):
            mean = 0.9 * means[i] + 0.1 * gradient
            square = 0.999 * squares[i] + 0.001 * gradient * gradient
            size = tf.sqrt(square / (1 - 0.999**power)) + 1e-12
            change = rates[i] * 0.98**power * mean / (1 - 0.9**power) / size
            kept = _where(better, variables[i], found[i])
            moved += [tf.clip_by_value(variables[i] - change, 0.0, largest[i]), mean, square, kept]
        return (number + 1, tf.minimum(best, values), *moved)

    def undecided(number: Any, best: Any, *_: Any) -> Any:
        open_ = tf.reduce_any(tf.reduce_all(best > enough, axis=1))
        return tf.logical_and(number < nb_steps, open_)

    state = [tensor for variable in start for tensor in (variable, *[variable * 0] * 2, variable)]
    _, best, *state = tf.while_loop(
        undecided, step, [tf.constant(0), values, *state], parallel_iterations=1
    )
    values = function(list(state[::4]))
    better = values < best
    found = [_where(better, new, old) for new, old in zip(state[::4], state[3::4])]
    return tf.minimum(best, values), found


def _where(chosen: Any, new: Any, old: Any) -> Any:
    """Entries (N, S, ...) of one tensor where (N, S) says so, else of another."""
    axes = [1] * (len(old.shape) - 2)
    return tf.where(
        tf.reshape(chosen, tf.concat([tf.shape(chosen), tf.constant(axes, tf.int32)], 0)), new, old
    )


def tighten(lower: Any, upper: Any, places: Any, new_lower: Any, new_upper: Any) -> tuple:
    """Intersect entries of (N, D) intervals: `places` (N, S) are columns, the new sides (N, S)."""
    samples = tf.broadcast_to(tf.range(tf.shape(places)[0])[:, None], tf.shape(places))
    where = tf.stack([samples, places], axis=-1)
    return (
        tf.tensor_scatter_nd_max(lower, where, new_lower),
        tf.tensor_scatter_nd_min(upper, where, new_upper),
    )


def gather(values: Any, places: Any) -> Any:
    """Entries (N, *places, ...) of (N, D, ...) at places (N, ...) of the second axis."""
    return tf.gather(values, places, axis=1, batch_dims=1)


def first_true(mask: Any, count: Any) -> Any:
    """Columns of the first True entries of each row of (N, D), then others, up to `count`."""
    return tf.math.top_k(tf.cast(mask, tf.float32), k=count, sorted=True).indices


class _FullPrecision:
    """The switch of TensorFloat-32, off as long as any thread needs it to be.

    It is one for the whole process: the first thread to come switches it off, and the last to leave
    restores what the first has found.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._nb_users, self._found = 0, False

    def __enter__(self) -> None:
        with self._lock:
            if self._nb_users == 0:
                self._found = tf.config.experimental.tensor_float_32_execution_enabled()
                tf.config.experimental.enable_tensor_float_32_execution(False)
            self._nb_users += 1

    def __exit__(self, *_: Any) -> None:
        with self._lock:
            self._nb_users -= 1
            if self._nb_users == 0:
                tf.config.experimental.enable_tensor_float_32_execution(self._found)


_FULL_PRECISION = _FullPrecision()


def full_precision() -> _FullPrecision:
    """No TensorFloat-32 while certifying: it would round products to 11 bits."""
    return _FULL_PRECISION
