"""The CUDA kernels' C interface for Python, without TensorFlow.

Tensors are NumPy arrays of bits here. Device memory is the driver's own, which
is there wherever a GPU is, or PyTorch's, beside whose kernels ours are timed.
The interface's emulation, which runs the kernels' code on the processor, takes
host memory instead.
"""

import contextlib
import ctypes
import dataclasses
import pathlib
import time
import weakref

import numpy as np

PASSES = ("forward", "input_gradient", "filter_gradient")
KERNELS = ("auto", "general", "narrow", "wide", "medium")
DTYPES = ("float16", "bfloat16", "float32", "float64")


class Axis(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            "input",
            "kernel",
            "output",
            "stride",
            "dilation",
            "pad_before",
        )
    ]


class Call(ctypes.Structure):
    """`KerasAdderCall` of keras_adder_cuda.h."""

    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        *(
            (name, ctypes.c_int32)
            for name in (
                "pass_",
                "type",
                "output_type",
                "sign",
                "channels_first",
                "kernel",
                "splits",
            )
        ),
        *(
            (name, ctypes.c_int64)
            for name in ("batch", "in_channels", "out_channels", "groups")
        ),
        ("height", Axis),
        ("width", Axis),
    ]


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A convolution by its shapes, which are those of NHWC, and attributes."""

    shape: tuple[int, int, int, int]
    kernel: tuple[int, int] = (3, 3)
    filters: int = 1
    groups: int = 1
    strides: tuple[int, int] = (1, 1)
    # "SAME", "VALID" or ((top, bottom), (left, right)).
    padding: str | tuple = "VALID"
    dilations: tuple[int, int] = (1, 1)
    data_format: str = "NHWC"
    dtype: str = "float32"
    # That of the output and its gradient; defaults to `dtype`.
    output_dtype: str | None = None
    sign: bool = False
    # One of `KERNELS`.
    force: str = "auto"
    # Parts that a tiled kernel divides each sum into; 0: its own choice.
    splits: int = 0

    @property
    def input_shape(self):
        return self._in_order(*self.shape)

    @property
    def filter_shape(self):
        return (*self.kernel, self.shape[3] // self.groups, self.filters)

    @property
    def output_shape(self):
        height, width = (axis.output for axis in self.axes)
        return self._in_order(self.shape[0], height, width, self.filters)

    @property
    def result_dtype(self):
        return self.output_dtype or self.dtype

    @property
    def axes(self):
        return tuple(self._axis(axis) for axis in range(2))

    @property
    def differences(self):
        """Of a forward pass; taps in the padding count."""
        height, width = (axis.output for axis in self.axes)
        pixels = self.shape[0] * height * width
        return pixels * int(np.prod(self.filter_shape, dtype=np.int64))

    def call(self, what):
        """The `Call` of one of `PASSES`."""
        height, width = self.axes
        return Call(
            struct_size=ctypes.sizeof(Call),
            pass_=PASSES.index(what),
            type=DTYPES.index(self.dtype),
            output_type=DTYPES.index(self.result_dtype),
            sign=self.sign,
            channels_first=self.data_format == "NCHW",
            kernel=KERNELS.index(self.force),
            splits=self.splits,
            batch=self.shape[0],
            in_channels=self.shape[3],
            out_channels=self.filters,
            groups=self.groups,
            height=height,
            width=width,
        )

    def _in_order(self, batch, height, width, channels):
        if self.data_format == "NCHW":
            return (batch, channels, height, width)
        return (batch, height, width, channels)

    def _axis(self, axis):
        size, kernel = self.shape[1 + axis], self.kernel[axis]
        stride, dilation = self.strides[axis], self.dilations[axis]
        extent = (kernel - 1) * dilation + 1
        before = after = 0
        if self.padding == "SAME":
            total = max((-(-size // stride) - 1) * stride + extent - size, 0)
            before, after = total // 2, total - total // 2
        elif self.padding != "VALID":
            before, after = self.padding[axis]
        output = (size + before + after - extent + stride) // stride
        if self.padding == "SAME":
            output = -(-size // stride)
        return Axis(size, kernel, output, stride, dilation, before)


class Interface:
    """A library of the C interface, and the memory that it works on.

    Args:
        path: The path of the library.
        memory: What holds tensors: `Host`, `Driver` or `Torch`.
    """

    def __init__(self, path, memory):
        self.memory = memory
        # A bare name would be looked for where the system has libraries.
        self._library = ctypes.CDLL(str(pathlib.Path(path).resolve()))
        call = ctypes.POINTER(Call)
        pointer = ctypes.c_void_p
        for name, result, arguments in (
            ("unusable", ctypes.c_char_p, ()),
            ("workspace", ctypes.c_int64, (call,)),
            ("kernel", ctypes.c_char_p, (call,)),
            ("run", ctypes.c_char_p, (call, *[pointer] * 6)),
        ):
            function = getattr(self._library, f"keras_adder_cuda_{name}")
            function.restype, function.argtypes = result, arguments
            setattr(self, f"_{name}", function)

    def unusable(self):
        """Why there is no GPU to use, or None."""
        return _text(self._unusable())

    def kernel(self, convolution, what):
        return _text(self._kernel(convolution.call(what)))

    def workspace_bytes(self, convolution, what):
        return self._workspace(convolution.call(what))

    def launcher(self, convolution, what, x, f, g, result):
        """A function that enqueues a pass over tensors of `memory`."""
        call = convolution.call(what)
        workspace = self.memory.empty((self._workspace(call),), np.uint8)
        tensors = (x, f, g, result, workspace)
        pointers = [
            None if tensor is None else self.memory.pointer(tensor)
            for tensor in tensors
        ]

        def launch(tensors=tensors):  # which keeps them alive
            error = self._run(call, *pointers, self.memory.stream())
            if error:
                raise RuntimeError(_text(error))

        return launch

    def run(self, convolution, what, x, f, g=None):
        """`run_bits`, its result as float64."""
        bits, dtype = self.run_bits(convolution, what, x, f, g)
        return decode(bits, dtype)

    def run_bits(self, convolution, what, x, f, g=None):
        """One pass over arrays of float64, for tests.

        They are rounded to the convolution's dtypes first. Returns the bits of
        the result as integers, and its dtype. Memory behind it is checked to be
        untouched.
        """
        dtype = convolution.dtype
        shape, result_dtype = {
            "forward": (convolution.output_shape, convolution.result_dtype),
            "input_gradient": (convolution.input_shape, dtype),
            "filter_gradient": (convolution.filter_shape, dtype),
        }[what]
        put = self.memory.put
        x, f = put(encode(x, dtype)), put(encode(f, dtype))
        if g is not None:
            g = put(encode(g, convolution.result_dtype))
        size = int(np.prod(shape, dtype=np.int64))
        # All bits set: NaN in every dtype.
        fence = np.full(size + 16, -1, _INTEGERS[result_dtype])
        result = put(fence)
        self.launcher(convolution, what, x, f, g, result)()
        bits = self.memory.get(result)
        if not np.array_equal(bits[size:], fence[size:]):
            raise RuntimeError("The kernel has written behind its result.")
        return bits[:size].reshape(shape), result_dtype


class Host:
    """NumPy arrays, for the emulation."""

    # Calls of `repeat` follow each other without a pause.
    graphs = True

    put = get = staticmethod(np.array)
    empty = staticmethod(np.empty)

    @staticmethod
    def pointer(array):
        return array.ctypes.data

    @staticmethod
    def stream():
        return None

    @staticmethod
    def repeat(run, calls):
        """A function that makes so many calls of `run`."""

        def repeated():
            for _ in range(calls):
                run()

        return repeated

    @staticmethod
    def seconds(run):
        """What `run` takes."""
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin


class CudaDriver:
    """The functions of the NVIDIA driver, by their names in cuda.h.

    Raises:
        OSError: If there is no driver.
        RuntimeError: If a function returns an error.
    """

    def __init__(self):
        self._library = ctypes.CDLL("libcuda.so.1")
        self("cuInit", 0)

    def __call__(self, function, *arguments):
        status = getattr(self._library, function)(*arguments)
        if status:
            raise RuntimeError(f"{function} failed: CUDA error {status}")

    def first_device(self):
        device = ctypes.c_int()
        self("cuDeviceGet", ctypes.byref(device), 0)
        return device


class DeviceArray:
    """An array in the memory of a GPU, which is freed with it."""

    def __init__(self, cuda, shape, dtype):
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self.nbytes = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        pointer = ctypes.c_void_p()
        size = ctypes.c_size_t(max(self.nbytes, 1))
        cuda("cuMemAlloc_v2", ctypes.byref(pointer), size)
        self.pointer = pointer.value
        weakref.finalize(self, _free, cuda, pointer)


def _free(cuda, pointer):
    # After a fault, which was an error already, nothing can be freed.
    with contextlib.suppress(RuntimeError):
        cuda("cuMemFree_v2", pointer)


class Driver:
    """Memory and the default stream of the first GPU, by its driver alone.

    Each array is an allocation of its own, so compute-sanitizer knows where it
    ends.
    """

    # Python enqueues the calls of `repeat` while the first of them run.
    graphs = False

    def __init__(self):
        self.cuda = CudaDriver()
        context = ctypes.c_void_p()
        device = self.cuda.first_device()
        # The one that the CUDA runtime uses as well.
        self.cuda("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.cuda("cuCtxSetCurrent", context)

    def put(self, array):
        array = np.ascontiguousarray(array)
        on_device = self.empty(array.shape, array.dtype)
        if array.nbytes:
            self.cuda(
                "cuMemcpyHtoD_v2",
                ctypes.c_void_p(on_device.pointer),
                ctypes.c_void_p(array.ctypes.data),
                ctypes.c_size_t(array.nbytes),
            )
        return on_device

    def get(self, on_device):
        """Waits for the stream, and raises what went wrong on it."""
        array = np.empty(on_device.shape, on_device.dtype)
        self.cuda("cuCtxSynchronize")
        if array.nbytes:
            self.cuda(
                "cuMemcpyDtoH_v2",
                ctypes.c_void_p(array.ctypes.data),
                ctypes.c_void_p(on_device.pointer),
                ctypes.c_size_t(array.nbytes),
            )
        return array

    def empty(self, shape, dtype):
        return DeviceArray(self.cuda, shape, dtype)

    @staticmethod
    def pointer(on_device):
        return on_device.pointer

    @staticmethod
    def stream():
        return None

    repeat = staticmethod(Host.repeat)

    def seconds(self, run):
        """What the GPU takes for what `run` enqueues."""
        begin, end = ctypes.c_void_p(), ctypes.c_void_p()
        for event in (begin, end):
            self.cuda("cuEventCreate", ctypes.byref(event), 0)
        self.cuda("cuEventRecord", begin, None)
        run()
        self.cuda("cuEventRecord", end, None)
        self.cuda("cuEventSynchronize", end)
        milliseconds = ctypes.c_float()
        self.cuda("cuEventElapsedTime", ctypes.byref(milliseconds), begin, end)
        for event in (begin, end):
            self.cuda("cuEventDestroy_v2", event)
        return milliseconds.value / 1e3


class Torch:
    """PyTorch's tensors on its current GPU and stream."""

    graphs = True

    def __init__(self):
        import torch

        self.torch = torch

    def put(self, array):
        array = np.ascontiguousarray(array)
        # PyTorch knows few operations on unsigned integers, but moves bytes.
        return self.torch.from_numpy(array.view(np.uint8)).cuda(), array.dtype

    def get(self, tensor):
        data, dtype = tensor
        return data.cpu().numpy().view(dtype)

    def empty(self, shape, dtype):
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        data = self.torch.empty(count, dtype=self.torch.uint8, device="cuda")
        return data, np.dtype(dtype)

    @staticmethod
    def pointer(tensor):
        return tensor[0].data_ptr()

    def stream(self):
        return self.torch.cuda.current_stream().cuda_stream

    def repeat(self, run, calls):
        """A function that enqueues so many calls of `run`, as a CUDA graph.

        A GPU that waits for Python between two of them would measure Python.
        `run` has to have been called before: libraries are loaded and
        algorithms are chosen at the first call, which no graph can hold.
        """
        self.torch.cuda.synchronize()
        graph = self.torch.cuda.CUDAGraph()
        with self.torch.cuda.graph(graph):
            for _ in range(calls):
                run()
        return graph.replay

    def seconds(self, run):
        """What the GPU takes for what `run` enqueues."""
        begin, end = (
            self.torch.cuda.Event(enable_timing=True) for _ in range(2)
        )
        begin.record()
        run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3


@dataclasses.dataclass(frozen=True)
class Gpu:
    """The first GPU that this process sees, as its driver describes it."""

    name: str
    compute_capability: tuple[int, int]
    multiprocessors: int
    max_clock_mhz: float
    # The newest CUDA that the driver is for.
    driver_cuda: str
    # By which `nvidia-smi` knows it, whatever CUDA_VISIBLE_DEVICES hides.
    pci_bus_id: str

    @classmethod
    def first(cls):
        cuda = CudaDriver()
        device = cuda.first_device()

        def text(function):
            value = ctypes.create_string_buffer(256)
            cuda(function, value, len(value), device)
            return value.value.decode()

        def number(function, *arguments):
            value = ctypes.c_int()
            cuda(function, ctypes.byref(value), *arguments)
            return value.value

        def attribute(index):
            return number("cuDeviceGetAttribute", index, device)

        version = number("cuDriverGetVersion")
        return cls(
            name=text("cuDeviceGetName"),
            # Their numbers in CUdevice_attribute, of cuda.h.
            compute_capability=(attribute(75), attribute(76)),
            multiprocessors=attribute(16),
            max_clock_mhz=attribute(13) / 1e3,
            driver_cuda=f"{version // 1000}.{version % 1000 // 10}",
            pci_bus_id=text("cuDeviceGetPCIBusId"),
        )


def timing_memory():
    """`Torch` where it sees a GPU, and else `Driver`.

    Raises:
        OSError: If there is no driver.
        RuntimeError: If there is no GPU.
    """
    try:
        memory = Torch()
        if memory.torch.cuda.is_available():
            return memory
    except (ImportError, OSError):  # OSError: without a library of CUDA's.
        pass
    return Driver()


_INTEGERS = {
    "float16": np.int16,
    "bfloat16": np.int16,
    "float32": np.int32,
    "float64": np.int64,
}


def encode(array, dtype):
    """Rounds float64 to a dtype; returns the bits, flat, as integers."""
    array = np.asarray(array, np.float64).ravel()
    if dtype != "bfloat16":
        with np.errstate(over="ignore"):
            return array.astype(dtype).view(_INTEGERS[dtype])
    bits = array.astype(np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    rounded = np.where(np.isnan(array), 0x7FC0, rounded)
    return rounded.astype(np.uint16).view(np.int16)


def decode(bits, dtype):
    """The float64 that some bits are."""
    if dtype != "bfloat16":
        return bits.view(dtype).astype(np.float64)
    words = bits.view(np.uint16).astype(np.uint32) << 16
    return words.view(np.float32).astype(np.float64)


def rounded(array, dtype):
    """What is left of float64 in a dtype, as float64."""
    return decode(encode(array, dtype), dtype).reshape(np.shape(array))


def _text(value):
    return None if value is None else value.decode()
