"""Stride and offset of a feature map, by receptive-field arithmetic through the network.

The network runs once without values: the input is a tensor that has a shape and knows, for
each of its axes, whether it is the image's y, its x, or neither. Every operator that the
network calls arrives here as one of PyTorch's own elementary operators, whether it was
written as a module, a function or a method, and has a rule below or is refused. So the
arithmetic never guesses: what it does not know is an error that names node and operator.

Along one spatial axis, cell ``i`` of a window operator (convolution, pooling) with kernel
``k``, stride ``s``, padding ``p`` and dilation ``d`` is centred at cell ``s * i - p + d * (k - 1) / 2``
of the operator's input. Composing these gives a map's stride and offset in pixels.
"""

import difflib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from sppfeat.errors import ConfigError

__all__ = ["FeatureGeometry", "LayerGeometry", "layer_geometries", "receptive_field"]

# The second input size differs from the first by an odd number of pixels and by at least one cell at the
# strides in use: padding that is computed from the input's size (TensorFlow's "SAME") then shows itself.
_SECOND_SIZE = 33


class FeatureGeometry(NamedTuple):
    """Where the cells of a feature map lie in the network's input.

    Cell ``i`` is centred at input pixel index ``offset + stride * i``; the centre of pixel 0 has index 0.

    Attributes:
        stride: input pixels from one cell to the next; a ``(y, x)`` pair where the axes differ.
        offset: input pixel index of the centre of cell 0; a ``(y, x)`` pair where the axes differ.
    """

    stride: float | tuple[float, float]
    offset: float | tuple[float, float]


class LayerGeometry(NamedTuple):
    """One feature map of a network.

    Attributes:
        channels: the map's number of channels.
        map_hw: the map's height and width in cells, for the input size that was asked for.
        geometry: the map's stride and offset; None where the arithmetic does not apply.
        reason: why ``geometry`` is None; empty where it is not.
    """

    channels: int
    map_hw: tuple[int, int]
    geometry: FeatureGeometry | None
    reason: str


def receptive_field(
    module_or_graph: nn.Module, layer: str | None = None, *, input_hw: tuple[int, int] = (224, 224)
) -> FeatureGeometry:
    """Stride and offset of one layer's feature map in pixels of the network's input.

    Centres add up along every path from the input; paths that meet must agree. Values pooled
    over the whole map (the gates of squeeze-and-excitation) have no place and are left out.
    The network is walked in eval mode, at ``input_hw`` and at a slightly larger size, and the
    two must agree. It is neither changed nor copied, and none of its weights is read.

    Args:
        module_or_graph: a network that takes an image batch ``(N, 3, H, W)``. A GraphModule is
            walked as it is; any other module is traced as torchvision's feature extraction does.
        layer: torchvision's name of a node, also a truncated one (``"layer4"``). For a
            GraphModule: a key of its dict output or the name of a node. None: the only output.
        input_hw: height and width of the input to walk with, in pixels.

    Returns:
        The map's stride and offset, each a float, or a ``(y, x)`` pair where the axes differ.

    Raises:
        ConfigError: if there is no such layer, if it is not a feature map ``(N, C, H, W)``, or if
            the arithmetic does not apply; the message names node, operator and reason.

    Example:
        >>> from torch import nn
        >>> stem = nn.Sequential(nn.Conv2d(3, 8, 7, stride=2, padding=3), nn.MaxPool2d(2))
        >>> receptive_field(stem)
        FeatureGeometry(stride=4.0, offset=1.0)
        >>> receptive_field(stem, "0")
        FeatureGeometry(stride=2.0, offset=0.0)
    """
    with _eval_mode(module_or_graph):
        network = _open_network(module_or_graph)
        wanted = _select_outputs(network, None if layer is None else [layer])
        first, second = _walk_twice(network, input_hw, wanted)
    if len(first) != 1:
        raise ConfigError(f"the network has {len(first)} outputs; choose one: {', '.join(first) or 'none'}")
    ((key, found),) = first.items()
    name = "the network's output" if layer is None else f"layer {layer!r}"
    if not isinstance(found, _Tracked) or found.dim() != 4:
        shape = f"of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ConfigError(f"{name} is not a feature map (N, C, H, W) but {shape}")
    geometry, reason = _agreed_geometry([found, second[key]], input_hw)
    if geometry is None:
        raise ConfigError(f"{name} has no stride and offset: {reason}")
    return geometry


def layer_geometries(
    module_or_graph: nn.Module, *, layers: Sequence[str] | None = None, input_hw: tuple[int, int] = (224, 224)
) -> dict[str, LayerGeometry]:
    """Channels, size and geometry of many layers at once, from one walk.

    Args:
        module_or_graph: as for :func:`receptive_field`.
        layers: the layers to report, as for :func:`receptive_field`. None: for a GraphModule every
            key of its dict output (or its only output), for any other module every node.
        input_hw: height and width of the input to walk with, in pixels.

    Returns:
        One entry per layer, in order. A layer whose axes are not ``(N, C, H, W)``, or not known to
        be, has no entry: a vector, a channels-last map, a map pooled to one cell.

    Raises:
        ConfigError: if there is no such layer, or the network does not run on an input of this size.
            Where only the arithmetic fails, the entry says so in ``reason``.

    Example:
        >>> from torch import nn
        >>> body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2), nn.Flatten())
        >>> for name, layer in layer_geometries(body, input_hw=(32, 48)).items():
        ...     print(name, layer.channels, layer.map_hw, layer.geometry)
        0 8 (32, 48) FeatureGeometry(stride=1.0, offset=0.0)
        1 8 (16, 24) FeatureGeometry(stride=2.0, offset=0.5)
    """
    with _eval_mode(module_or_graph):
        network = _open_network(module_or_graph)
        if layers is None and not isinstance(module_or_graph, fx.GraphModule):
            layers = [name for node, name in network.names.items() if node.op != "placeholder"] or None
        wanted = _select_outputs(network, layers)
        first, second = _walk_twice(network, input_hw, wanted)
    found: dict[str, LayerGeometry] = {}
    for name, value in first.items():
        if isinstance(value, _Tracked) and _is_map(_layout_of(value)):
            geometry, reason = _agreed_geometry([value, second[name]], input_hw)
            _, channels, height, width = value.shape
            found[name] = LayerGeometry(channels, (height, width), geometry, reason)
    return found


def _two_sizes(input_hw: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    height, width = input_hw
    if height < 1 or width < 1:
        raise ConfigError(f"input_hw must be a positive height and width, found {input_hw}")
    return (height, width), (height + _SECOND_SIZE, width + _SECOND_SIZE)


# --- The network as a graph, and the walk --------------------------------------------------------


class _Network(NamedTuple):
    module: nn.Module
    graph: fx.Graph | None  # None: torch.fx cannot trace it; its outputs alone can be had
    names: dict[fx.Node, str]  # what torchvision calls each node
    untraceable: str  # why there is no graph


class _Walker(fx.Interpreter):
    """Runs the part of a graph that the wanted nodes depend on, and keeps their values."""

    def __init__(self, network: _Network, trace: "_Trace", wanted: set[fx.Node]):
        super().__init__(network.module, graph=network.graph)
        self.extra_traceback = False  # the error is worded in _walk
        self.trace, self.names, self.wanted = trace, network.names, wanted
        self.needed = _ancestors(wanted)
        self.found: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n not in self.needed:
            return None
        self.trace.node = self.names.get(n, n.name)
        value = super().run_node(n)
        inputs = [self.env[node] for node in n.all_input_nodes]
        _keep_axes_names(value, [v for v in inputs if isinstance(v, _Tracked)])
        if n in self.wanted:
            self.found[n] = value
        return value


def _ancestors(nodes: set[fx.Node]) -> set[fx.Node]:
    found, waiting = set(nodes), list(nodes)
    while waiting:
        for node in waiting.pop().all_input_nodes:
            if node not in found:
                found.add(node)
                waiting.append(node)
    return found


def _keep_axes_names(value: Any, inputs: Sequence["_Tracked"]) -> None:
    """Let a node that no rule understands, but that keeps the shape, keep the order of the axes.

    So channels and map size can be listed behind swin's attention blocks. The geometry stays lost.
    """
    if isinstance(value, _Tracked) and (reason := _unnamed(_layout_of(value))):
        for source in inputs:
            if source.shape == value.shape and not _unnamed(source.roles):
                value.roles = tuple(_lose(dim, reason) for dim in source.roles)
                return


@contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    # Flags only: train() and eval() would recompile torchvision's two-mode graphs, and calling train() on
    # the whole network afterwards would undo the caller's frozen submodules.
    flags = [(child, child.training) for child in module.modules()]
    try:
        for child, _ in flags:
            child.training = False
        yield
    finally:
        for child, training in flags:
            child.training = training


def _open_network(module: nn.Module) -> _Network:
    if isinstance(module, fx.GraphModule):
        graph: fx.Graph = getattr(module, "eval_graph", module.graph)
        names = {n: str(n.target) if n.op == "call_module" else n.name for n in graph.nodes}
        return _Network(module, graph, names, "")
    # torchvision takes a second to import, and exports neither its tracer nor the tracer's settings.
    from torchvision.models import feature_extraction

    tracer = feature_extraction.NodePathTracer(**feature_extraction._set_default_tracer_kwargs(None))
    try:
        graph = tracer.trace(module)
    except Exception as error:  # tracing runs the network's own code, which may raise anything
        return _Network(module, None, {}, f"{type(error).__name__}: {error}")
    return _Network(module, graph, dict(tracer.node_to_qualname), "")


def _select_outputs(network: _Network, layers: Sequence[str] | None) -> dict[str, fx.Node | None]:
    """Find the nodes of the layers, or of all outputs; without a graph they are None."""
    if network.graph is None:
        return dict.fromkeys(layers or ())
    outputs = _graph_outputs(network.graph)
    if layers is None:
        return dict(outputs)
    return {layer: outputs.get(layer) or _find_node(network, layer) for layer in layers}


def _graph_outputs(graph: fx.Graph) -> dict[str, fx.Node]:
    (output,) = (node for node in graph.nodes if node.op == "output")
    value = output.args[0]
    if isinstance(value, fx.Node):
        return {value.name: value}
    if isinstance(value, Mapping):
        return {str(key): node for key, node in value.items() if isinstance(node, fx.Node)}
    if isinstance(value, Sequence):
        return {str(i): node for i, node in enumerate(value) if isinstance(node, fx.Node)}
    return {}


def _find_node(network: _Network, layer: str) -> fx.Node:
    depth = layer.count(".") + 1
    names = {node: name for node, name in network.names.items() if node.op not in ("placeholder", "output")}
    for node, name in reversed(names.items()):
        if node.name == layer or ".".join(name.split(".")[:depth]) == layer:
            return node
    known = difflib.get_close_matches(layer, names.values(), n=5, cutoff=0.4) or list(names.values())[-5:]
    raise ConfigError(f"the network has no layer {layer!r}; close to it: {', '.join(known)}")


def _walk_twice(
    network: _Network, input_hw: tuple[int, int], wanted: Mapping[str, fx.Node | None]
) -> tuple[dict[str, Any], dict[str, Any]]:
    first_hw, second_hw = _two_sizes(input_hw)
    first = _walk(network, first_hw, wanted)
    layouts = [_layout_of(value) for value in first.values() if isinstance(value, _Tracked)]
    if not any(_is_map(layout) and not _first_loss(layout) for layout in layouts):
        return first, first  # nothing was found that a second walk could refute
    return first, _walk(network, second_hw, wanted)


def _walk(
    network: _Network, input_hw: tuple[int, int], wanted: Mapping[str, fx.Node | None]
) -> dict[str, Any]:
    """Run the network on an input of this size, and return what each wanted node computes."""
    trace = _Trace()
    floating = (p.dtype for p in network.module.parameters() if p.dtype.is_floating_point)
    image = torch.empty(2, 3, *input_hw, dtype=next(floating, torch.float32), device="meta")
    axes = [(_Axis(size, name, 1.0, 0.0, ""),) for size, name in zip(input_hw, "yx", strict=True)]
    batch = _Tracked(image, (_plain(2), _plain(3), *axes), trace)
    try:
        with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
            if network.graph is None:
                return _pick_outputs(network, network.module(batch), wanted)
            walker = _Walker(network, trace, {node for node in wanted.values() if node is not None})
            walker.run(batch)
    except ConfigError:
        raise
    except Exception as error:  # the network's own code may raise anything
        at = f" at node {trace.node!r}" if trace.node else ""
        height, width = input_hw
        raise ConfigError(
            f"the network cannot be followed on an input of {height} x {width} pixels{at}: {error}"
        ) from error
    return {name: walker.found[node] for name, node in wanted.items() if node is not None}


def _pick_outputs(network: _Network, value: Any, layers: Collection[str]) -> dict[str, Any]:
    outputs = (
        {str(key): item for key, item in value.items()} if isinstance(value, Mapping) else {"output": value}
    )
    for layer in layers:
        if layer not in outputs:
            raise ConfigError(
                f"layer {layer!r} cannot be chosen, as torch.fx cannot trace the network "
                f"({network.untraceable}); its outputs are {', '.join(outputs)}"
            )
    return {layer: outputs[layer] for layer in layers or outputs}


def _is_map(layout: "_Layout") -> bool:
    spatial = [[atom.name if isinstance(atom, _Axis) else "" for atom in dim] for dim in layout[2:]]
    return len(layout) == 4 and not _axes(layout[0] + layout[1]) and spatial == [["y"], ["x"]]


def _agreed_geometry(values: Sequence[Any], input_hw: tuple[int, int]) -> tuple[FeatureGeometry | None, str]:
    found = []
    for value in values:
        layout = _layout_of(value)
        reason = _first_loss(layout)
        if reason or not _is_map(layout):
            return None, reason or "its axes are not (N, C, H, W) with H and W from the image"
        (y,), (x,) = _axes(layout[2]), _axes(layout[3])
        stride = y.stride if y.stride == x.stride else (y.stride, x.stride)
        offset = y.offset if y.offset == x.offset else (y.offset, x.offset)
        found.append(FeatureGeometry(stride, offset))
    if found[0] != found[1]:
        first, second = _two_sizes(input_hw)
        return None, f"it depends on the input's size: {found[0]} at {first}, {found[1]} at {second}"
    return found[0], ""


# --- Layouts: what the axes of a tensor are ------------------------------------------------------


class _Axis(NamedTuple):
    """A spatial axis; its cell ``i`` is centred at input pixel ``offset + stride * i``, unless lost."""

    size: int
    name: str  # "y" or "x"; "?" where not even that is known
    stride: float
    offset: float
    lost: str  # why stride and offset are not known; empty where they are


class _Plain(NamedTuple):
    """An axis that is not spatial: batch, channels, heads; uniform: the values do not vary along it."""

    size: int
    uniform: bool = False


# One dimension of a tensor is a tuple of atoms, outermost first: flattening H and W makes one dimension of
# two atoms, and () is a dimension of size 1 that is not spatial. Uniform dimensions agree with any other.
_Dim: TypeAlias = tuple[_Axis | _Plain, ...]
_Layout: TypeAlias = tuple[_Dim, ...]


def _plain(size: int, uniform: bool = False) -> _Dim:
    return () if size == 1 else (_Plain(size, uniform),)


def _axes(dim: _Dim) -> list[_Axis]:
    return [atom for atom in dim if isinstance(atom, _Axis)]


def _extent(dim: _Dim) -> int:
    return math.prod(atom.size for atom in dim)


def _is_uniform(dim: _Dim) -> bool:
    return all(isinstance(atom, _Plain) and atom.uniform for atom in dim)


def _uniform(shape: Sequence[int]) -> _Layout:
    return tuple(_plain(size, uniform=True) for size in shape)


def _opaque(shape: Sequence[int], reason: str) -> _Layout:
    return tuple((_Axis(size, "?", math.nan, math.nan, reason),) for size in shape)


def _unnamed(layout: _Layout) -> str:
    return next((axis.lost for dim in layout for axis in _axes(dim) if axis.name == "?"), "")


def _first_loss(dims: Sequence[_Dim]) -> str:
    return next((axis.lost for dim in dims for axis in _axes(dim) if axis.lost), "")


def _lose(dim: _Dim, reason: str) -> _Dim:
    return tuple(_lose_one(atom, reason) if isinstance(atom, _Axis) else atom for atom in dim)


def _resize(dim: _Dim, size: int, reason: str) -> _Dim:
    """Give a dimension another size: a plain one stays plain, a spatial one loses its geometry."""
    if size == _extent(dim) and not _axes(dim):
        return dim
    if not _axes(dim):
        return _plain(size, uniform=bool(dim) and _is_uniform(dim))
    if len(dim) == 1:
        return _lose((dim[0]._replace(size=size),), reason)
    return _opaque([size], reason)[0]


def _join(a: _Dim, b: _Dim, where: str) -> _Dim:
    """Combine dimensions of two values that meet elementwise (with broadcasting)."""
    if _is_uniform(a) and _extent(b) % max(1, _extent(a)) == 0:
        return b
    if _is_uniform(b) and _extent(a) % max(1, _extent(b)) == 0:
        return a
    size = max(_extent(a), _extent(b))
    if not _axes(a) and not _axes(b):
        return _plain(size)
    if [atom.size for atom in a] == [atom.size for atom in b]:
        return tuple(_join_atoms(left, right, where) for left, right in zip(a, b, strict=True))
    reason = _first_loss((a, b))
    return _opaque([size], reason or f"{where}: values of different spatial sizes or layouts meet")[0]


def _join_atoms(a: _Axis | _Plain, b: _Axis | _Plain, where: str) -> _Axis | _Plain:
    if isinstance(a, _Plain):
        if isinstance(b, _Plain):
            return _Plain(a.size, a.uniform and b.uniform)
        a, b = b, a
    if isinstance(b, _Plain):
        return a if b.uniform else _lose_one(a, f"{where}: a value without positions meets {a.name}")
    if a.lost or b.lost:
        return _lose_one(a if a.lost else b, "")
    if a.name == b.name and (a.stride, a.offset) == (b.stride, b.offset):
        return a
    return _lose_one(a, f"{where}: branches disagree along {a.name}: {_centres(a)} and {_centres(b)}")


def _lose_one(axis: _Axis, reason: str) -> _Axis:
    return axis._replace(lost=axis.lost or reason)


def _centres(axis: _Axis) -> str:
    return f"{axis.name} = {axis.offset:g} + {axis.stride:g} i"


def _broadcast(layouts: Sequence[_Layout], shape: Sequence[int], where: str) -> _Layout:
    result = _uniform(shape)
    for layout in layouts:
        aligned = ((),) * (len(shape) - len(layout)) + layout
        result = tuple(_join(left, right, where) for left, right in zip(result, aligned, strict=True))
    return result


def _regroup(layout: _Layout, shape: Sequence[int], where: str) -> _Layout:
    """Lay a tensor's values out, in order, under another shape; spatial axes must stay whole."""
    if tuple(_extent(dim) for dim in layout) == tuple(shape):
        return layout
    reason = _first_loss(layout)
    if any(axis.size == 1 for dim in layout for axis in _axes(dim)):
        return _opaque(
            shape, reason or f"{where}: the map is one cell wide or high here; use a larger input_hw"
        )
    atoms = _merge_plain([atom for dim in layout for atom in dim])
    result: list[_Dim] = []
    for size in shape:
        dim: list[_Axis | _Plain] = []
        while size > 1 and atoms:
            atom = atoms.pop(0)
            if size % atom.size and isinstance(atom, _Plain) and atom.size % size == 0:
                atoms.insert(0, atom._replace(size=atom.size // size))
                atom = atom._replace(size=size)
            if size % atom.size:
                return _opaque(shape, reason or f"{where}: a spatial axis of {atom.size} cells is cut up")
            dim.append(atom)
            size //= atom.size
        result.append(tuple(dim))
    return tuple(result)


def _merge_plain(atoms: Sequence[_Axis | _Plain]) -> list[_Axis | _Plain]:
    merged: list[_Axis | _Plain] = []
    for atom in atoms:
        last = merged[-1] if merged else None
        if isinstance(atom, _Plain) and isinstance(last, _Plain) and atom.uniform == last.uniform:
            merged[-1] = last._replace(size=last.size * atom.size)
        else:
            merged.append(atom)
    return merged


# --- The tensor without values -------------------------------------------------------------------


class _Trace:
    """Where the walk is, and which memory holds values that no rule could follow."""

    def __init__(self) -> None:
        self.node = ""
        self.spoiled: list[
            tuple[torch.UntypedStorage, str]
        ] = []  # holds the storage, so that no other reuses it

    def spoil(self, value: Tensor, reason: str) -> None:
        self.spoiled.append((value.untyped_storage(), reason))

    def reason_spoiled(self, value: Tensor) -> str:
        storage = value.untyped_storage()
        return next((reason for other, reason in self.spoiled if other._cdata == storage._cdata), "")


class _Tracked(torch.Tensor):
    """A tensor without values that knows the roles of its axes; operators on it follow the rules below."""

    meta_value: Tensor
    roles: _Layout
    walk: _Trace

    @staticmethod
    def __new__(cls, value: Tensor, layout: _Layout, trace: _Trace) -> "_Tracked":
        # "cpu", so that what the network makes on the input's device has values that its code can look at.
        device = torch.device("cpu")
        self: _Tracked = torch.Tensor._make_wrapper_subclass(
            cls, value.shape, value.stride(), value.storage_offset(), dtype=value.dtype, device=device
        )
        self.meta_value, self.roles, self.walk = value, layout, trace
        return self

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"<feature map of shape {tuple(self.shape)}, axes {self.roles}>"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if _rule_for(func) is _unknown:
            # Composite operators arrive whole where a tensor was made in inference mode.
            parts = func.decompose(*args, **(kwargs or {}))
            if parts is not NotImplemented:
                return parts
        flat, spec = tree_flatten((args, dict(kwargs or {})))
        tracked = [item for item in flat if isinstance(item, _Tracked)]
        trace = tracked[0].walk
        meta_args, meta_kwargs = tree_unflatten([_without_values(item) for item in flat], spec)
        if meta_kwargs.get("device") is not None:
            meta_kwargs["device"] = torch.device("meta")
        result = _compute_shapes(func, meta_args, meta_kwargs)
        outputs = [item for item in tree_flatten(result)[0] if isinstance(item, Tensor)]
        call = _Call(func, _bind(func, args, kwargs or {}), outputs, f"node {trace.node!r}, {func}")
        layouts = iter(_layouts(call))
        owners = {id(item.meta_value): item for item in tracked}

        def wrap(item: Any) -> Any:
            if not isinstance(item, Tensor):
                return item
            return _write_back(owners.get(id(item)), item, next(layouts), trace, call.where)

        _refuse_foreign_writes(call)
        return tree_map(wrap, result)


def _without_values(item: Any) -> Any:
    if isinstance(item, _Tracked):
        return item.meta_value
    if isinstance(item, Tensor) and not item.is_meta:
        return torch.empty_strided(item.shape, item.stride(), dtype=item.dtype, device="meta")
    return item


def _compute_shapes(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    # PyTorch finds these operators' shapes through decompositions in Python: half the time of a walk.
    if torch.Tag.pointwise in func.tags and func.overloadpacket.__name__.endswith("_"):
        return args[0]
    if func is torch.ops.aten.native_batch_norm.default:
        return torch.empty_like(args[0]), torch.empty(0, device="meta"), torch.empty(0, device="meta")
    return func(*args, **kwargs)


def _write_back(
    owner: _Tracked | None, value: Tensor, layout: _Layout, trace: _Trace, where: str
) -> _Tracked:
    """Return the operator's output: a new tracked tensor, or the one that it wrote to in place."""
    if owner is None:
        return _Tracked(value, layout, trace)
    if owner.shape != value.shape:
        raise ConfigError(f"{where}: changes a tensor's shape in place")
    if owner.roles != layout:
        reason = _first_loss(layout) or f"{where}: written in place into a tensor of another kind"
        trace.spoil(value, reason)
        owner.roles = layout
    return owner


def _refuse_foreign_writes(call: "_Call") -> None:
    for argument in call.func._schema.arguments:
        target = call.args.get(argument.name)
        is_written = argument.alias_info is not None and argument.alias_info.is_write
        if is_written and isinstance(target, Tensor) and not isinstance(target, _Tracked):
            raise ConfigError(f"{call.where}: values are written into a tensor that is not followed")


# --- The rules: one per operator -----------------------------------------------------------------


class _Call(NamedTuple):
    func: Any  # the torch.ops overload
    args: dict[str, Any]  # by the names of its schema
    outputs: list[Tensor]  # shapes only
    where: str

    def layout(self, name: str) -> _Layout:
        return _layout_of(self.args[name])

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.outputs[0].shape)


_Rule: TypeAlias = Callable[[_Call], _Layout]


def _bind(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    schema = func._schema.arguments
    bound = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    bound.update(zip((argument.name for argument in schema), args, strict=False))
    return {**bound, **kwargs}


def _layout_of(value: Tensor) -> _Layout:
    if not isinstance(value, _Tracked):
        return _uniform(value.shape)
    reason = value.walk.reason_spoiled(value.meta_value) if value.walk.spoiled else ""
    return _opaque(value.shape, reason) if reason else value.roles


def _rule_for(func: Any) -> _Rule:
    if func.namespace != "aten":
        return _unknown
    if torch.Tag.pointwise in func.tags:
        return _elementwise
    return _RULES.get(func.overloadpacket.__name__, _unknown)


def _layouts(call: _Call) -> list[_Layout]:
    """One layout per output of the operator."""
    rule = _rule_for(call.func)
    layouts: list[_Layout] = []
    for output in call.outputs:
        layout = rule(call._replace(outputs=[output]))
        if tuple(_extent(dim) for dim in layout) != tuple(output.shape):
            layout = _opaque(output.shape, f"{call.where}: the operator's rule does not fit its result")
        layouts.append(layout)
    return layouts


def _unknown(call: _Call) -> _Layout:
    inputs = [_layout_of(item) for item in tree_flatten(call.args)[0] if isinstance(item, _Tracked)]
    reason = _first_loss([dim for layout in inputs for dim in layout])
    return _opaque(call.shape, reason or f"{call.where}: there is no receptive-field rule for this operator")


def _elementwise(call: _Call) -> _Layout:
    tensors = [item for item in tree_flatten(call.args)[0] if isinstance(item, Tensor)]
    return _broadcast([_layout_of(tensor) for tensor in tensors], call.shape, call.where)


def _same(call: _Call) -> _Layout:
    layout = _layout_of(next(item for item in call.args.values() if isinstance(item, Tensor)))
    fits = tuple(_extent(dim) for dim in layout) == call.shape
    return layout if fits else _opaque(call.shape, f"{call.where}: a statistic, not a map")


def _create(call: _Call) -> _Layout:
    return _uniform(call.shape)


def _softmax(call: _Call) -> _Layout:
    layout = call.layout("self")
    dim = call.args["dim"] % max(1, len(layout))
    lost = f"{call.where}: normalises over the map"
    return _replaced(layout, dim, _lose(layout[dim], lost)) if layout else layout


def _replaced(layout: _Layout, index: int, *dims: _Dim) -> _Layout:
    return layout[:index] + dims + layout[index + 1 :]


def _reduce(call: _Call) -> _Layout:
    layout = call.layout("self")
    dims = call.args.get("dim")
    dims = [dims] if isinstance(dims, int) else list(dims or range(len(layout)))
    reduced = {dim % max(1, len(layout)) for dim in dims}
    if call.args.get("keepdim", False):
        return tuple(() if i in reduced else dim for i, dim in enumerate(layout))
    return tuple(dim for i, dim in enumerate(layout) if i not in reduced)


def _view(call: _Call) -> _Layout:
    return _regroup(call.layout("self"), call.shape, call.where)


def _permute(call: _Call) -> _Layout:
    layout = call.layout("self")
    return tuple(layout[dim] for dim in call.args["dims"])


def _transpose(call: _Call) -> _Layout:
    layout = list(call.layout("self"))
    first, second = call.args.get("dim0", 0), call.args.get("dim1", -1)
    if layout:
        layout[first], layout[second] = layout[second], layout[first]
    return tuple(layout)


def _unsqueeze(call: _Call) -> _Layout:
    layout = call.layout("self")
    index = call.args["dim"] % (len(layout) + 1)
    return (*layout[:index], (), *layout[index:])


def _squeeze(call: _Call) -> _Layout:
    layout = call.layout("self")
    dims = call.args.get("dim", range(len(layout)))
    dims = {dim % max(1, len(layout)) for dim in ([dims] if isinstance(dims, int) else dims)}
    return tuple(dim for i, dim in enumerate(layout) if i not in dims or _extent(dim) != 1)


def _expand(call: _Call) -> _Layout:
    layout = call.layout("self")
    aligned = ((),) * (len(call.shape) - len(layout)) + layout
    result = []
    for dim, size in zip(aligned, call.shape, strict=True):
        if _extent(dim) == size:
            result.append(dim)
        elif _axes(dim):
            result.append(_resize(dim, size, f"{call.where}: a single cell is repeated"))
        else:
            result.append(_plain(size, uniform=True))
    return tuple(result)


def _resize_all(call: _Call) -> _Layout:
    layout = call.layout("self")
    reason = f"{call.where}: there is no receptive-field rule for this operator"
    if len(layout) != len(call.shape):
        return _opaque(call.shape, reason)
    return tuple(
        dim if _extent(dim) == size and not _axes(dim) else _resize(dim, size, reason)
        for dim, size in zip(layout, call.shape, strict=True)
    )


def _resize_one(call: _Call) -> _Layout:
    layout = call.layout("self")
    index = call.args["dim"] % len(layout)
    reason = f"{call.where}: a spatial axis is cut up"
    return _replaced(layout, index, _resize(layout[index], call.shape[index], reason))


def _drop_one(call: _Call) -> _Layout:
    # One position is taken out of an axis: the result no longer has a place along it, like a pooled value.
    layout = call.layout("self")
    return _replaced(layout, call.args["dim"] % len(layout))


def _slice(call: _Call) -> _Layout:
    layout = call.layout("self")
    index = call.args["dim"] % len(layout)
    dim, size = layout[index], call.shape[index]
    if len(dim) != 1 or not _axes(dim):
        return layout if _extent(dim) == size else _resize_one(call)
    (axis,) = _axes(dim)
    start, step = call.args.get("start") or 0, call.args["step"]
    start = min(max(start + axis.size if start < 0 else start, 0), axis.size)
    offset = axis.offset + axis.stride * start
    return _replaced(layout, index, (axis._replace(size=size, stride=axis.stride * step, offset=offset),))


def _pad(call: _Call) -> _Layout:
    layout = list(call.layout("self"))
    amounts = call.args["pad" if "pad" in call.args else "padding"]
    for index, before in zip(range(len(layout) - 1, -1, -1), amounts[::2], strict=False):
        dim, size = layout[index], call.shape[index]
        if len(dim) == 1 and isinstance(dim[0], _Axis):
            layout[index] = (dim[0]._replace(size=size, offset=dim[0].offset - dim[0].stride * before),)
        elif _extent(dim) != size:
            layout[index] = _resize(_not_uniform(dim), size, f"{call.where}: flattened axes are padded")
    return tuple(layout)


def _not_uniform(dim: _Dim) -> _Dim:
    return tuple(_Plain(atom.size) if isinstance(atom, _Plain) else atom for atom in dim)


def _cat(call: _Call) -> _Layout:
    layouts = [_layout_of(tensor) for tensor in call.args["tensors"] if tensor.dim() == len(call.shape)]
    index = call.args["dim"] % len(call.shape)
    dims = [layout[index] for layout in layouts]
    reason = f"{call.where}: maps are joined along a spatial axis"
    if any(_axes(dim) for dim in dims):
        joined = _opaque([call.shape[index]], _first_loss(dims) or reason)[0]
    else:
        joined = _plain(call.shape[index], uniform=all(dim and _is_uniform(dim) for dim in dims))
    others = [_replaced(layout, index, ()) for layout in layouts]
    shape = (*call.shape[:index], 1, *call.shape[index + 1 :])
    return _replaced(_broadcast(others, shape, call.where), index, joined)


def _stack(call: _Call) -> _Layout:
    index = call.args["dim"] % len(call.shape)
    shape = call.shape[:index] + call.shape[index + 1 :]
    layouts = [_layout_of(tensor) for tensor in call.args["tensors"]]
    joined = _broadcast(layouts, shape, call.where)
    return (*joined[:index], _plain(call.shape[index]), *joined[index:])


def _matmul(call: _Call) -> _Layout:
    left = call.layout(next(name for name in ("mat1", "batch1", "self") if name in call.args))
    right = call.layout(next(name for name in ("mat2", "batch2") if name in call.args))
    if any(map(_axes, left)) and any(map(_axes, right)):
        return _unknown(call)
    rows, columns = left[-2], right[-1]
    batch = [_join(a, b, call.where) for a, b in zip(left[:-2], right[:-2], strict=True)]
    return (*batch, _not_uniform(rows), _not_uniform(columns))


def _linear(call: _Call) -> _Layout:
    return (*call.layout("input")[:-1], _plain(call.shape[-1]))


def _convolution(call: _Call) -> _Layout:
    layout = call.layout("input")
    if call.args["transposed"]:
        return _resize_spatial(call, layout, f"{call.where}: transposed convolution")
    if any(map(_axes, layout[:2])):
        return _opaque(
            call.shape, _first_loss(layout[:2]) or f"{call.where}: convolves over N or C of the map"
        )
    if any(map(_axes, call.layout("weight"))):
        return _opaque(call.shape, f"{call.where}: the kernel varies over the map")
    dims = _windows(call, layout[2:], call.args["weight"].shape[2:])
    return (layout[0], _plain(call.shape[1]), *dims)


def _pool(call: _Call) -> _Layout:
    layout = call.layout("self")
    kernel = call.args["kernel_size"]
    n_leading = len(layout) - (3 if "3d" in call.func.overloadpacket.__name__ else 2)
    return (*layout[:n_leading], *_windows(call, layout[n_leading:], kernel))


def _windows(call: _Call, dims: Sequence[_Dim], kernel: Sequence[int]) -> list[_Dim]:
    sizes = call.shape[len(call.shape) - len(dims) :]

    def along(name: str, default: Sequence[int]) -> list[int]:
        given = list(call.args.get(name) or default)
        return given * len(dims) if len(given) == 1 else given

    kernels = list(kernel) * (len(dims) if len(kernel) == 1 else 1)
    strides, paddings, dilations = along("stride", kernels), along("padding", [0]), along("dilation", [1])
    reason = f"{call.where}: flattened axes meet a window operator"
    each = zip(dims, sizes, kernels, strides, paddings, dilations, strict=True)
    return [_window(dim, size, k, s, p, d, reason) for dim, size, k, s, p, d in each]


def _window(dim: _Dim, size: int, kernel: int, stride: int, padding: int, dilation: int, reason: str) -> _Dim:
    """One dimension after a window operator: the receptive-field arithmetic itself."""
    if len(dim) == 1 and isinstance(dim[0], _Axis):
        axis = dim[0]
        offset = axis.offset + axis.stride * (dilation * (kernel - 1) / 2 - padding)
        return (axis._replace(size=size, stride=axis.stride * stride, offset=offset),)
    if kernel == stride == 1 and padding == 0:
        return dim
    return _resize(_not_uniform(dim), size, reason)


def _resize_spatial(call: _Call, layout: _Layout, reason: str) -> _Layout:
    if len(layout) != len(call.shape):
        return _opaque(call.shape, reason)
    dims = [_resize(dim, size, reason) for dim, size in zip(layout[2:], call.shape[2:], strict=True)]
    return (layout[0], _plain(call.shape[1]), *dims) if not _axes(layout[1]) else _opaque(call.shape, reason)


def _resample(call: _Call) -> _Layout:
    # The scale follows from two sizes, so it changes with the input; one cell is spread evenly.
    layout = call.layout("self")
    reason = f"{call.where}: resampling to another size"
    dims = [
        _plain(size, uniform=True) if dim == () else _resize(dim, size, reason)
        for dim, size in zip(layout[2:], call.shape[2:], strict=True)
    ]
    return (*layout[:2], *dims)


def _adaptive_pool(call: _Call) -> _Layout:
    layout = call.layout("self")
    n_leading = len(layout) - len(call.args["output_size"])
    reason = f"{call.where}: the bins of adaptive pooling change with the input's size"
    dims = [
        () if size == 1 else _resize(_not_uniform(dim), size, reason)
        for dim, size in zip(layout[n_leading:], call.shape[n_leading:], strict=True)
    ]
    return (*layout[:n_leading], *dims)


_RULE_NAMES: tuple[tuple[_Rule, str], ...] = (
    (_convolution, "convolution _convolution"),
    (_pool, "max_pool2d_with_indices max_pool3d_with_indices avg_pool2d avg_pool3d"),
    (_adaptive_pool, "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d"),
    (_resample, "upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d upsample_bicubic2d"),
    (_resample, "_upsample_bilinear2d_aa _upsample_bicubic2d_aa"),
    (_resize_all, "roll flip repeat"),
    (_pad, "constant_pad_nd reflection_pad2d replication_pad2d"),
    (_slice, "slice"),
    (_resize_one, "split split_with_sizes unsafe_split unsafe_split_with_sizes index_select glu"),
    (_drop_one, "select unbind"),
    (_view, "view _unsafe_view reshape _reshape_alias"),
    (_permute, "permute"),
    (_transpose, "transpose t"),
    (_unsqueeze, "unsqueeze"),
    (_squeeze, "squeeze"),
    (_expand, "expand"),
    (_cat, "cat"),
    (_stack, "stack"),
    (_matmul, "mm bmm addmm baddbmm"),
    (_linear, "linear"),
    (_softmax, "_softmax _log_softmax"),
    (_reduce, "mean sum amax amin max min std var std_mean var_mean norm linalg_vector_norm logsumexp"),
    (_create, "empty_like zeros_like ones_like full_like rand_like randn_like"),
    (_create, "new_empty new_zeros new_ones new_full"),
    # Operators without PyTorch's own tag "pointwise" that are so all the same.
    (
        _elementwise,
        "copy_ fill_ zero_ masked_fill masked_fill_ hardswish hardswish_ silu_ mish_ gelu_ threshold_",
    ),
    # One value per cell, with channel-wise parameters; statistics over the whole map are left out like gates.
    (_same, "native_batch_norm cudnn_batch_norm miopen_batch_norm native_group_norm native_layer_norm"),
    (_same, "_native_batch_norm_legit _native_batch_norm_legit_no_training _fused_rms_norm"),
    (_same, "_batch_norm_with_update _batch_norm_no_update"),
    (_same, "detach alias _to_copy lift_fresh native_dropout native_channel_shuffle channel_shuffle"),
    (_same, "_prelu_kernel log_sigmoid_forward"),
)
_RULES: dict[str, _Rule] = {name: rule for rule, names in _RULE_NAMES for name in names.split()}
