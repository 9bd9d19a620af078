"""What a CUDA graph of two copies must do, on the strict driver and on a real GPU."""

from trt_pose.gpu.device import Graph, copy


def replay_two_copies(gpu, captures=True):
    """Captures copies to the GPU and back, and replays them with other bytes; returns the graph, None without one."""
    stream, source, target, memory = gpu.stream(), gpu.pinned(16), gpu.pinned(16), gpu.memory(16)

    def work():
        copy(source.buffer, memory, 16, stream)
        copy(memory, target.buffer, 16, stream)
        return True

    target.array[:] = 1
    graph = Graph.capture(stream, work)
    assert (graph is not None) is captures
    assert Graph.capture(stream, lambda: False) is None
    stream.sync()
    assert (target.array == 1).all()  # nothing ran
    for value in (5, 6) if graph else ():
        source.array[:] = value
        graph.launch(stream)
        stream.sync()
        assert (target.array == value).all()
    return graph
