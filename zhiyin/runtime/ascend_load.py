"""The graphs of an OM bundle as a table of sizes, and as models on a card."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from zhiyin.errors import UserError
from zhiyin.runtime.ascend_acl import Card, DeviceFull
from zhiyin.runtime.ascend_bench import BenchGraph, HostCache
from zhiyin.runtime.ascend_graph import CACHE_IN, CACHE_OUT, Cache, OmGraph, size_bytes
from zhiyin.runtime.base import ModelSpec
from zhiyin.runtime.bundle import Graph

AnyGraph = OmGraph | BenchGraph
AnyCache = Cache | HostCache
Key = tuple[str, int, int]  # component, size, batch

_NO_MEMORY = 207001


class Table:
    """Which sizes there are; the record of the bundle is the only source.

    Attributes:
        graphs: by component, size and batch.
        decoders: whether there are any.
        call_sizes: tokens per call of the decoder graphs, smaller first.
        places: in the cache of a row.
        width: of an embedding.
        vocabulary: of the decoder.
        has_ctc: whether the encoder graphs have a CTC head.
    """

    def __init__(self, folder: Path, graphs: Sequence[Graph], spec: ModelSpec):
        """Check that the sizes serve the model.

        Raises:
            UserError: a size is missing, or decoder graphs do not share one cache.
        """
        self.folder, self.spec = folder, spec
        self.graphs: dict[Key, Graph] = {(graph.component, graph.size, graph.batch): graph for graph in graphs}
        self.buckets = self._sizes("encoder")
        self.call_sizes = self._sizes("decoder")
        self.decoders = bool(self.call_sizes)
        longest = max(self.buckets, default=0)
        if longest < spec.max_frames:
            raise UserError(
                f"bundle {folder}: its largest encoder bucket is {longest} frames, but windows have up to "
                f"{spec.max_frames}; a bucket is missing: export again"
            )
        self.has_ctc = any(port.name == "ctc" for graph in graphs for port in graph.outputs)
        self.places = self.width = self.vocabulary = 0
        if self.decoders:
            self._check_decoders([graph for graph in graphs if graph.component == "decoder"])

    def deal(self, frames: Sequence[int]) -> Iterator[tuple[int, int, list[int]]]:
        """Which utterances go together: bucket, batch, and their indices."""
        by_size: dict[int, list[int]] = {}
        for i, count in enumerate(frames):
            by_size.setdefault(min(size for size in self.buckets if size >= count), []).append(i)
        for size, rows in by_size.items():
            for batch, count in self.split(len(rows), "encoder", size):
                yield size, batch, rows[:count]
                rows = rows[count:]

    def split(self, count: int, component: str, size: int | None = None) -> Iterator[tuple[int, int]]:
        """Rows dealt to the batch sizes there are: batch, and how many of its rows are used.

        Few calls are better than no padding, for a call has a price of its own; but more than half of a batch is used,
        where there is a smaller one.
        """
        batches = {key[2] for key in self.graphs if key[0] == component and size in (None, key[1])}
        while count > 0:
            batch = max((batch for batch in batches if batch < 2 * count), default=min(batches))
            yield batch, min(batch, count)
            count -= batch

    def _sizes(self, component: str) -> list[int]:
        return sorted({size for part, size, _ in self.graphs if part == component})

    def _check_decoders(self, graphs: Sequence[Graph]) -> None:
        ports = [{port.name: port for port in (*graph.inputs, *graph.outputs)} for graph in graphs]
        shapes = [port["keys"].shape for port in ports]
        self.width, self.vocabulary = ports[0]["embeds"].shape[2], ports[0]["logits"].shape[1]
        self.places = shapes[0][3]
        for graph, port, shape in zip(graphs, ports, shapes, strict=True):
            caches = {port[name].shape for name in ("keys", "values", "new_keys", "new_values")}
            wanted = (shapes[0][0], graph.batch, *shapes[0][2:])
            if caches != {wanted} or self.places != self.spec.max_tokens:
                seen = f"{graph.file} has the cache {list(shape)}, {list(wanted)} was expected"
                raise UserError(f"bundle {self.folder}: {seen}; its graphs are of two exports: export again")
        missing = [
            f"{size} tokens for {batch} rows"
            for size in self.call_sizes
            for batch in {graph.batch for graph in graphs}
            if ("decoder", size, batch) not in self.graphs
        ]
        if missing:
            raise UserError(f"bundle {self.folder}: a decoder graph is missing: {missing[0]}; export again")


class Loaded:
    """The models of a bundle on a card, and caches that are free; one may be released and loaded again."""

    def __init__(self, table: Table, session: str):
        self.table, self.kind = table, OmGraph if session == "acl" else BenchGraph
        self.generation = 0  # what was made under an older one is gone
        self.graphs: dict[Key, AnyGraph] = {}
        self.made: list[AnyCache] = []
        self.spare: list[AnyCache] = []
        self._undo = ExitStack()

    def load(self, card: Card) -> None:
        """Load what is not loaded; callers hold the card's turn.

        Raises:
            UserError: a model does not load or is another one than the record says.
            DeviceFull: not enough memory; it says which buckets would fit.
        """
        if self.graphs:
            return
        self.card = card
        needs = {key: self._needs(graph) for key, graph in self.table.graphs.items()}
        free = card.free_bytes()
        caches = [cache_bytes(graph) for key, graph in self.table.graphs.items() if key[0] == "decoder"]
        if caches:  # at least one row must find a place
            needs["decoder", 0, 0] = min(caches)
        if free is not None and sum(needs.values()) > free:
            raise DeviceFull(self._fits(needs, free), _NO_MEMORY)
        try:
            for key, graph in self.table.graphs.items():
                self.graphs[key] = self.kind(card, self.table.folder / graph.file, graph)
                self._undo.callback(self.graphs[key].close)
        except DeviceFull as error:
            self.release()
            raise DeviceFull(f"{error}; {self._fits(needs, card.free_bytes())}", error.code) from error
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Free everything; what the device refuses to take back, because it is lost, is ignored."""
        self.generation += 1
        self._undo.close()
        self.graphs, self.made, self.spare = {}, [], []

    def take(self, batch: int, rows: int) -> AnyCache:
        """An empty cache of `batch` rows, for a session of `rows`.

        Raises:
            DeviceFull: no memory for one more; it says how many there are.
        """
        found = next((cache for cache in self.spare if cache.batch == batch), None)
        if found is not None:
            self.spare.remove(found)
            found.clear()
            return found
        graph = next(graph for key, graph in self.graphs.items() if key[0] == "decoder" and key[2] == batch)
        with ExitStack() as undo:
            try:
                cache = graph.new_cache(undo)
            except DeviceFull as error:
                one = _megabytes(cache_bytes(graph.graph))
                free = self.card.free_bytes()
                left = "" if free is None else f", {_megabytes(free)} are free"
                said = f"a batch of {rows} needs {one} of key/value cache for every {batch} of its rows{left}"
                raise DeviceFull(f"{error}; {said}: smaller batches fit", error.code) from error
            self._undo.enter_context(undo.pop_all())
        self.made.append(cache)
        return cache

    def give_back(self, held: list[AnyCache]) -> None:
        """Caches of a session that ended, for the next one; those of before a release are gone."""
        self.spare.extend(cache for cache in held if cache in self.made)
        held.clear()

    def _needs(self, graph: Graph) -> int:
        """Bytes of a graph on the card: the model as CANN estimates it, and its ports; caches come with sessions."""
        work, weights, code = self.card.acl.mdl.query_size(str(self.table.folder / graph.file))
        ports = [port for port in (*graph.inputs, *graph.outputs) if port.name not in (*CACHE_IN, *CACHE_OUT)]
        return int((0 if code else work + weights) + sum(size_bytes(port) for port in ports))

    def _fits(self, needs: dict[Key, int], free: int | None) -> str:
        """Which buckets would fit into the memory there is."""
        rest = sum(size for (component, _, _), size in needs.items() if component == "decoder")
        steps = [
            (bucket, rest + sum(size for key, size in needs.items() if key[0] == "encoder" and key[1] <= bucket))
            for bucket in self.table.buckets
        ]
        has = "" if free is None else f", where {_megabytes(free)} are free"
        said = f"bundle {self.table.folder}: needs {_megabytes(steps[-1][1])} on device {self.card.number}{has}"
        fitting = [(bucket, size) for bucket, size in steps if free is not None and size <= free]
        if not fitting:
            smallest = f"with its smallest bucket alone it needs {_megabytes(steps[0][1])}"
            return f"{said}; {smallest}: close other programs on the device, or take a smaller model"
        bucket, size = fitting[-1]
        seconds = bucket / self.table.spec.frames_per_s
        return f"{said}; buckets of up to {seconds:g} s need {_megabytes(size)} and fit: export with those"


def cache_bytes(graph: Graph) -> int:
    """Memory of one cache of a decoder graph: keys and values, read and written."""
    return sum(size_bytes(port) for port in (*graph.inputs, *graph.outputs) if port.name in (*CACHE_IN, *CACHE_OUT))


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB" if count >= 1e7 else f"{count / 1e6:.2f} MB"
