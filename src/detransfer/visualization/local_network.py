"""A network run on images that differ from one of them in a window each.

Receptive fields carry a change no further than a window of each map, which grows from layer to
layer. While it is small it alone is worked out, and what layers read around it is taken from the
maps of the unchanged image: the outcome is the same but for rounding.
"""

from __future__ import annotations

import logging
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor, add, fx, nn

from detransfer.deformable import DeformableConv
from detransfer.visualization.windows import (
    POINT,
    Reader,
    Window,
    complete,
    kernel_of,
    without_padding,
)

log = logging.getLogger(__name__)
LARGEST = 0.5  # share of a map beyond which it costs more to cut a window out than it saves
SUMS = (operator.add, add)

Maps: TypeAlias = dict[fx.Node, Any]
Readers: TypeAlias = dict[fx.Node, Reader]


@dataclass(frozen=True)
class Step:
    """How a node is worked out, and how inputs are read of which it takes more than is known."""

    node: fx.Node
    call: Callable[[Callable[[fx.Node], Any]], Any]
    readers: Readers


class LocalNetwork:
    """A frozen backbone's ``forward_features`` on images that differ from one in a window each.

    ``whole``: run it as it is, its layers unseen.
    """

    def __init__(self, backbone: nn.Module, whole: bool = False) -> None:
        module = _as_one(backbone) if whole else _trace(backbone)
        self._plain = fx.Interpreter(module, garbage_collect_values=False)
        self._images, *self._nodes = module.graph.nodes
        self._last_reads: dict[fx.Node, list[fx.Node]] = {}
        for read, node in {r: n for n in self._nodes for r in n.all_input_nodes}.items():
            self._last_reads.setdefault(node, []).append(read)

    def maps(self, image: Tensor) -> Maps:
        """Return what every node makes of the unchanged image (1, 3, h, w)."""
        self._plain.run(image)
        return dict(self._plain.env)

    def steps(self, maps: Maps, window: Window) -> list[Step]:
        """Plan the passes of n images that differ in this window; ``maps`` may be any image's."""
        windows = {self._images: window}
        return [self._step(node, windows, maps) for node in self._nodes]

    def run(self, steps: list[Step], maps: Maps, changed: Tensor) -> Tensor:
        """Return the features (n, c, h', w') of images whose window is ``changed`` (n, 3, h, w).

        ``maps``: of the image that they are otherwise.
        """
        known: Maps = {self._images: changed}

        def value(node: fx.Node, readers: Readers) -> Any:
            reader = readers.get(node)
            return known[node] if reader is None else reader(known[node], maps[node])

        for step in steps:
            known[step.node] = step.call(partial(value, readers=step.readers))
            for node in self._last_reads.get(step.node, ()):
                del known[node]
        features: Tensor = known[steps[-1].node]
        return features

    def _step(self, node: fx.Node, windows: dict[fx.Node, Window], maps: Maps) -> Step:
        """Plan a node: within a window, which it notes, where that is possible and saves work."""
        local = [each for each in node.all_input_nodes if each in windows]
        if local and all(windows[each].share(_shape(maps[each])) <= LARGEST for each in local):
            plan = self._sum if node.target in SUMS else self._slide
            if step := plan(node, windows, maps):
                return step
        readers = {}
        for each in local:
            wanted = complete(len(windows[each].top), _shape(maps[each]))
            readers[each] = _reader(windows[each], wanted, maps[each])
        return Step(node, self._as_it_is(node), readers)

    def _slide(self, node: fx.Node, windows: dict[fx.Node, Window], maps: Maps) -> Step | None:
        """Plan a layer that reads a fixed window for each cell."""
        if node.op != "call_module":
            return None
        layer: Any = self._plain.fetch_attr(str(node.target))
        kernel = kernel_of(layer)
        if kernel is None:
            return None
        (source,) = node.all_input_nodes
        windows[node] = windows[source].reached(kernel, _shape(maps[node]))
        if kernel == POINT:
            return Step(node, self._as_it_is(node), {})
        padding = -math.inf if isinstance(layer, nn.MaxPool2d) else 0
        wanted = windows[node].read_by(kernel)
        reader = _reader(windows[source], wanted, maps[source], padding)
        return Step(node, lambda value: without_padding(layer, value(source)), {source: reader})

    def _sum(self, node: fx.Node, windows: dict[fx.Node, Window], maps: Maps) -> Step | None:
        """Plan the sum of two maps whose windows differ, one within the other."""
        if len(node.args) != 2 or node.kwargs or set(node.args) - windows.keys():
            return None
        terms: list[Any] = sorted(node.args, key=lambda each: windows[each].height)
        inner, outer = (windows[each] for each in terms)
        if not outer.holds(inner):
            return None
        windows[node] = outer
        readers = {}
        if not inner.holds(outer):
            readers[terms[0]] = _reader(inner, outer, maps[terms[0]])
        return Step(node, self._as_it_is(node), readers)

    def _as_it_is(self, node: fx.Node) -> Callable[[Callable[[fx.Node], Any]], Any]:
        run = getattr(self._plain, node.op)

        def call(value: Callable[[fx.Node], Any]) -> Any:
            args, kwargs = fx.map_arg(node.args, value), fx.map_arg(node.kwargs, value)
            return run(node.target, args, kwargs)

        return call


def _shape(maps: Tensor) -> tuple[int, int]:
    return maps.shape[2], maps.shape[3]


def _reader(known: Window, wanted: Window, maps: Tensor, padding: float = 0) -> Reader:
    return Reader(known, wanted, _shape(maps), maps.device, padding)


class _Conv5(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Any:
        backbone: Any = self.backbone
        return backbone.forward_features(images)


class _Layers(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, DeformableConv) or not any(m.children())


def _trace(backbone: nn.Module) -> fx.GraphModule:
    """Return the graph of ``forward_features``, layer by layer.

    Parameters are shared with the backbone, whose in-place layers become ordinary ones.
    """
    for module in backbone.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    root = _Conv5(backbone)
    try:
        graph = _Layers().trace(root)
    except Exception as error:  # a model's code may do anything
        log.info("this backbone's layers cannot be followed (%s); it runs whole, slower", error)
        return _as_one(backbone)
    for node in graph.nodes:
        if node.target is operator.iadd:
            node.target = operator.add
    return fx.GraphModule(root, graph)


def _as_one(backbone: nn.Module) -> fx.GraphModule:
    """Return the graph of a backbone that is one node."""
    graph = fx.Graph()
    graph.output(graph.call_module("backbone", (graph.placeholder("images"),)))
    return fx.GraphModule({"backbone": _Conv5(backbone)}, graph)
