"""One thread beside several, the cost of a small call, and scratch memory."""

import contextlib
import multiprocessing

import contenders
import measuring
import numpy as np
import tensorflow as tf

CONTENDERS = {"ours": contenders.ours, "stock": contenders.stock}


@contextlib.contextmanager
def worker(threads):
    """A process whose TensorFlow has so many threads.

    TensorFlow's threads are set once in a process, hence one for each number of
    them. They take turns, and the one whose turn it is not sleeps.

    Yields:
        A function of a contender's name, a shape and a pass, which returns a
        function that takes a turn there.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, threads), daemon=True)
    process.start()
    there.close()

    def prepare(name, shape, what):
        def take():
            here.send((name, shape, what))
            return here.recv()

        return take

    try:
        yield prepare
    finally:
        here.close()
        process.join(10)


def _serve(pipe, threads):
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    ready = {}
    while True:
        try:
            key = pipe.recv()
        except EOFError:
            return
        if key not in ready:
            name, shape, what = key
            ready.clear()  # one at a time, for the memory
            ready[key] = CONTENDERS[name](shape, what).run
        pipe.send(measuring.turn(ready[key]))


def measure(shapes, passes, threads, seconds, max_rounds=1000):
    """Times ours and the stock op with one thread and with `threads`.

    Returns:
        A list of dicts, one a shape, pass and contender.
    """
    rows = []
    with worker(1) as one, worker(threads) as several:
        for shape in shapes:
            for what in passes:
                for name in CONTENDERS:
                    times = measuring.alternate(
                        {
                            "one": one(name, shape, what),
                            "several": several(name, shape, what),
                        },
                        seconds / 2,
                        max_rounds,
                    )
                    rows.append(
                        {
                            "shape": str(shape),
                            "kernel": shape.kernel,
                            "pass": what,
                            "contender": name,
                            "threads": threads,
                            "seconds_one_thread": times["one"].seconds,
                            "seconds": times["several"].seconds,
                            "speedup": times["one"].seconds
                            / times["several"].seconds,
                        }
                    )
    return rows


def scratch(shape):
    """Bytes that ours takes beside its inputs and outputs, by pass.

    As TensorFlow accounts for `allocate_temp` in the statistics of a step: the
    core has no other scratch memory.
    """
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        # Fed, or all would be computed once while the graph is optimized.
        sizes = (shape.input_shape, shape.filter_shape, shape.output_shape)
        inputs, filters, gradient = placeholders = [
            v1.placeholder(tf.float32, size) for size in sizes
        ]
        feed = {
            placeholder.name: np.zeros(size, np.float32)
            for placeholder, size in zip(placeholders, sizes)
        }
        with tf.GradientTape() as tape:
            tape.watch((inputs, filters))
            outputs = contenders.adder_conv2d(inputs, filters, padding="same")
        gradients = tape.gradient(outputs, (inputs, filters), gradient)
        statistics = v1.RunMetadata()
        session.run(
            [outputs, gradients],
            feed,
            options=v1.RunOptions(trace_level=v1.RunOptions.FULL_TRACE),
            run_metadata=statistics,
        )
    found = {"forward": 0, "backward": 0}
    for device in statistics.step_stats.dev_stats:
        for node in device.node_stats:
            if "= KerasAdder>" in node.timeline_label:
                backward = "Backprop" in node.timeline_label.partition("= ")[2]
                what = "backward" if backward else "forward"
                found[what] += node.memory_stats.temp_memory_size
    return found


def memory(shapes):
    """Scratch memory beside what it would take to store all patches."""
    rows = []
    for shape in shapes:
        height, width = shape.output_size
        taps = shape.kernel**2 * shape.channels
        rows.append(
            {
                "shape": str(shape),
                **scratch(shape),
                "patches": 4 * shape.batch * height * width * taps,
            }
        )
    return rows
