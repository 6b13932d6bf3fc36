"""One library that bounds networks, in a process of its own that is asked through its pipes.

    python benchmarks/peer_sides.py xcertify 1

Used by `peers.py`. A line of JSON comes in and a line goes back. "load" makes a task ready, and
tells what its first call took and what it found; "time" calls it again and again. Tasks:

- "outputs": bounds of all logits over l_inf balls that are not clipped; `found`: their mean width.
- "EVA": the margins of one image over its l_inf ball, clipped to [0, 1], and over its parts with a
  cell of a 12x12 grid held, each bounded on its own; `found` is the mean of their largest bounds.
- "class" (auto_LiRPA only, for `decide.py`): whether the class stays over l_inf balls, clipped
  to [0, 1]; `found` is the share of the images of which this is proved.

Times are CPU seconds of this process, from arrays to arrays.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

GRID = 12
Call = Callable[[], float]


class Task(NamedTuple):
    """What is bounded: `net` is the path of its two files without their endings."""

    net: str
    kind: str
    method: str
    epsilon: float

    def inputs(self) -> np.ndarray:
        """The images, (N, *shape), channels last."""
        with np.load(f"{self.net}.npz") as file:
            return file["inputs"]


# --- xcertify -------------------------------------------------------------------------------------


def ours(nb_threads: int) -> Callable[[Task], dict[str, Call]]:
    """Tasks as xcertify answers them: `first` and `again` as it comes, `next` compiled."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import tensorflow as tf

    from xcertify.attributions import EVA
    from xcertify.bounds import Verifier
    from xcertify.regions import Ball

    tf.config.threading.set_intra_op_parallelism_threads(nb_threads)
    tf.config.threading.set_inter_op_parallelism_threads(nb_threads)

    def made(task: Task) -> dict[str, Call]:
        model = keras.models.load_model(f"{task.net}.keras", compile=False)
        images = task.inputs()
        method = task.method.lower()

        def call(compile: bool | str) -> Call:
            verifier = Verifier(model, method, compile=compile)
            if task.kind == "outputs":
                return lambda: _width(*verifier.bound_outputs(Ball(images, task.epsilon)))
            kind = type("EVA", (EVA,), {"_verifier": verifier})
            settings = {"clip": (0.0, 1.0), "grid_size": GRID, "mode": "exact", "method": method}
            explainer = kind(model, task.epsilon, **settings)
            # a map comes from the overlaps of the certificate, which has them all
            return lambda: _mean_overlap(explainer.certify(images[:1]))

        forward = tf.function(model)
        passes = tf.constant(images if task.kind == "outputs" else images[:1])
        calls = {"next": call(True), "forward": lambda: forward(passes)}
        return calls | first_and_again(lambda: call("auto"))

    return made


def first_and_again(make: Callable[[], Call]) -> dict[str, Call]:
    """The first call with what it takes to make it ready, and the same call after it."""
    ready: list[Call] = []

    def first() -> float:
        ready[:] = [make()]
        return ready[0]()

    def again() -> float:
        return ready[0]()

    return {"first": first, "again": again}


def _width(lower: np.ndarray, upper: np.ndarray) -> float:
    return float(np.mean(upper - lower))


def _mean_overlap(certificate: Any) -> float:
    return float(np.mean(np.append(certificate.cell_overlaps, certificate.overlap)))


# --- auto_LiRPA -----------------------------------------------------------------------------------


def theirs(nb_threads: int) -> Callable[[Task], dict[str, Call]]:
    """Tasks as auto_LiRPA answers them, with its settings as they are."""
    import torch
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    torch.set_num_threads(nb_threads)
    release = tuple(int(part) for part in torch.__version__.split(".")[:2])

    def made(task: Task) -> dict[str, Call]:
        if task.method == "alpha-CROWN" and release >= (2, 14):
            # There the gradient of torch.clamp is 0 at its ends, where the shares of lines begin.
            raise RuntimeError("alpha-CROWN of auto_LiRPA gives CROWN's bounds from torch 2.14 on")
        network, images = in_torch(task.net), channels_first(task.inputs())
        settings: dict[str, Any] = {"eps": task.epsilon}
        asked: dict[str, Any] = {"method": task.method}
        if task.kind == "EVA":
            logits = network(torch.from_numpy(images[:1])).numpy()[0]
            lower, upper, rows = margins_of_parts(images[0], logits, task.epsilon)
            images = np.broadcast_to(images[0], lower.shape).copy()
            settings = {"x_L": torch.from_numpy(lower), "x_U": torch.from_numpy(upper)}
            asked |= {"C": torch.from_numpy(rows), "bound_lower": False}
        elif task.kind == "class":
            low, high = (np.clip(images + side * task.epsilon, 0, 1) for side in (-1, 1))
            settings = {"x_L": torch.from_numpy(low), "x_U": torch.from_numpy(high)}
            rows = np.stack([margins(one) for one in network(torch.from_numpy(images)).numpy()])
            asked |= {"C": torch.from_numpy(rows), "bound_lower": False}

        def read() -> Any:
            return BoundedModule(network, torch.from_numpy(images[:1]), verbose=0)

        def call(module: Any) -> float:
            ball = PerturbationLpNorm(norm=np.inf, **settings)
            inputs = BoundedTensor(torch.from_numpy(images), ball)
            with torch.set_grad_enabled(task.method == "alpha-CROWN"):
                lower, upper = module.compute_bounds(x=(inputs,), **asked)
            if task.kind == "EVA":
                return float(upper.numpy().max(axis=1).mean())
            if task.kind == "class":
                return float((upper.detach().numpy().max(axis=1) < 0).mean())
            return _width(lower.numpy(), upper.numpy())

        def made_ready() -> Call:
            module = read()
            return lambda: call(module)

        return {"next": made_ready()} | first_and_again(made_ready)

    return made


def margins_of_parts(
    image: np.ndarray, logits: np.ndarray, epsilon: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sides of boxes (145, 1, H, W), whole and with a cell held each, and rows (145, 9, 10)."""
    lower = np.maximum(image - np.float32(epsilon), 0)
    upper = np.minimum(image + np.float32(epsilon), 1)
    _, height, width = image.shape
    cells = GRID * (np.arange(height) * GRID // height)[:, None] + np.arange(width) * GRID // width
    held = cells == np.arange(-1, GRID**2)[:, None, None, None]
    rows = margins(logits)
    rows = np.broadcast_to(rows, (len(held), *rows.shape)).copy()
    return np.where(held, image, lower), np.where(held, image, upper), rows


def margins(logits: np.ndarray) -> np.ndarray:
    """Rows (K - 1, K) of the other logits less the largest one."""
    units, label = np.eye(len(logits), dtype="float32"), logits.argmax()
    return np.delete(units, label, axis=0) - units[label]


def channels_first(inputs: np.ndarray) -> np.ndarray:
    """Images (N, C, H, W) of (N, H, W, C); others as they are."""
    return np.moveaxis(inputs, -1, 1).copy() if inputs.ndim == 4 else inputs


def in_torch(net: str) -> Any:
    """The network that `peers.described` wrote, channels first."""
    import torch
    from torch import nn

    with np.load(f"{net}.npz") as file:
        arrays = dict(file)
    steps: list[Any] = []
    for number, layer in enumerate(json.loads(str(arrays["layers"]))):
        weights = [torch.from_numpy(arrays[f"{kind}{number}"]) for kind in layer.get("weights", [])]
        if layer["kind"] == "conv":
            kernel, bias = weights
            size = tuple(kernel.shape[:2])
            step = nn.Conv2d(*kernel.shape[2:], size, layer["stride"], layer["padding"])
            step.weight.data, step.bias.data = kernel.permute(3, 2, 0, 1).contiguous(), bias
        elif layer["kind"] == "dense":
            kernel, bias = weights
            if layer["image"]:  # behind a Flatten of channels last
                image = kernel.reshape(*layer["image"], -1)
                kernel = image.permute(2, 0, 1, 3).reshape(kernel.shape)
            step = nn.Linear(*kernel.shape)
            step.weight.data, step.bias.data = kernel.T.contiguous(), bias
        elif layer["kind"] == "pool":
            step = nn.MaxPool2d(layer["size"])
        elif layer["kind"] in ("lstm", "attention", "normalization", "mean"):
            step = _of_sequences(layer, weights)
        else:
            step = {"relu": nn.ReLU, "flatten": nn.Flatten}.get(layer["kind"], _global_average)()
        steps.append(step)
    network = nn.Sequential(*steps).eval().requires_grad_(False)
    found = network(torch.from_numpy(channels_first(arrays["inputs"]))).numpy()
    np.testing.assert_allclose(found, arrays["logits"], rtol=1e-3, atol=1e-3)
    return network


def _global_average() -> Any:
    from torch import nn

    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _of_sequences(layer: dict, weights: list[Any]) -> Any:
    """A layer of (N, steps, features), or a normalization, written in operations of torch."""
    import torch
    from torch import nn

    class Lstm(nn.Module):
        """The last output; Keras has the gates in the order in, forget, candidate, out."""

        def forward(self, x: Any) -> Any:
            kernels, recurrents, biases = (torch.chunk(w, 4, dim=-1) for w in weights)
            output, cell = None, None
            for step in range(x.shape[1]):
                gates = [
                    x[:, step] @ kernel + bias
                    if output is None
                    else x[:, step] @ kernel + output @ recurrent + bias
                    for kernel, recurrent, bias in zip(kernels, recurrents, biases)
                ]
                begin, forget, _, out = (torch.sigmoid(gate) for gate in gates)
                new = begin * torch.tanh(gates[2])
                cell = new if cell is None else forget * cell + new
                output = out * torch.tanh(cell)
            return output

    class Attention(nn.Module):
        """x + MultiHeadAttention(x, x)."""

        def forward(self, x: Any) -> Any:
            parts = []
            for kernel, bias in zip(weights[0:6:2], weights[1:6:2]):
                inputs, nb_heads, size = kernel.shape
                part = x @ kernel.reshape(inputs, -1) + bias.reshape(-1)
                parts.append(part.view(-1, x.shape[1], nb_heads, size).permute(0, 2, 1, 3))
            query, key, value = parts
            scores = query @ key.permute(0, 1, 3, 2) * size**-0.5
            mixed = (torch.softmax(scores, dim=-1) @ value).permute(0, 2, 1, 3)
            mixed = mixed.reshape(-1, x.shape[1], nb_heads * size)
            return x + mixed @ weights[6].reshape(nb_heads * size, -1) + weights[7]

    class Normalization(nn.Module):
        """LayerNormalization along the last axis."""

        def forward(self, x: Any) -> Any:
            centered = x - x.mean(dim=-1, keepdim=True)
            variance = (centered * centered).mean(dim=-1, keepdim=True)
            return centered / torch.sqrt(variance + layer["epsilon"]) * weights[0] + weights[1]

    class Mean(nn.Module):
        """Of all steps."""

        def forward(self, x: Any) -> Any:
            return x.mean(dim=1)

    kinds = {"lstm": Lstm, "attention": Attention, "normalization": Normalization, "mean": Mean}
    return kinds[layer["kind"]]()


# --- asked ----------------------------------------------------------------------------------------


def answers(side: Callable[[Task], dict[str, Call]]) -> Callable[[dict], dict]:
    """What goes back for each thing that is asked."""
    calls: dict[str, Call] = {}

    def answer(asked: dict) -> dict:
        if asked["do"] == "load":
            calls.clear()
            calls.update(side(Task(*asked["task"])))
            first, found = timed(calls["first"])
            return {"first": first, "found": found}
        times: list[float] = []
        while not times or sum(times) < asked["seconds"]:
            times.append(timed(calls[asked["what"]])[0])
        return {"seconds": sum(times) / len(times)}

    return answer


def timed(call: Call) -> tuple[float, float]:
    """CPU seconds of a call, and what it gives."""
    start = time.process_time()
    found = call()
    return time.process_time() - start, found


def main() -> None:
    """Answer until the pipe is closed."""
    name, nb_threads = sys.argv[1], int(sys.argv[2])
    os.environ["OMP_NUM_THREADS"] = str(nb_threads)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed
    try:
        answer = answers({"xcertify": ours, "auto_LiRPA": theirs}[name](nb_threads))
        print(json.dumps({"ready": str(Path(__file__).parent)}), file=replies, flush=True)
    except ImportError as error:
        print(json.dumps({"error": str(error)}), file=replies, flush=True)
        return
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line))
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
