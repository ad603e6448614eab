"""CPU shim: lets unmodified SGLang 0.5.21 run on a torch without CUDA. Does nothing where CUDA is.

`python -m megatron_oreal.engines.sglang_cpu <SGLang server flags>` starts a server; where CUDA is, it is SGLang's own launcher.

SGLang imports triton, torchvision and its kernel library at start although a dense model on the torch_native attention backend
calls none of them. Here they are stubs: a stub's attributes are stubs again, and a kernel that is called after all raises.
"""

import importlib.machinery
import importlib.util
import multiprocessing
import os
import signal
import sys
import types

from megatron_oreal.engines import cpu_attention, cpu_sampling
from megatron_oreal.model import cpu_products


class _Stub(types.ModuleType):
    """A module in which every name exists: classes for capitalised names, submodules that also work as decorators for others."""

    def __init__(self, name: str):
        super().__init__(name)
        self.__path__ = []
        self.__file__ = __file__
        self.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        if name[0].isupper():
            value = _NamesAnything(name, (), {"__init__": lambda self, *args, **kwargs: None})
        else:
            value = sys.modules[f"{self.__name__}.{name}"] = _Stub(f"{self.__name__}.{name}")
        setattr(self, name, value)
        return value

    def __call__(self, *args, **kwargs):
        bare_decorator = len(args) == 1 and callable(args[0]) and not kwargs
        return args[0] if bare_decorator else (lambda function: function)

    def __contains__(self, item) -> bool:
        return False

    def __iter__(self):
        return iter(())


class _NamesAnything(type):
    """Enumeration-like access on stub classes, such as InterpolationMode.BICUBIC."""

    def __getattr__(cls, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return f"{cls.__name__}.{name}"


class _StubFinder:
    """Finds any submodule of the stubbed packages."""

    def __init__(self, package: str):
        self.package = package

    def find_spec(self, fullname, path=None, target=None):
        if fullname.split(".")[0] == self.package:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec):
        return _Stub(spec.name)

    def exec_module(self, module):
        pass


def _stub_kernels() -> None:
    """sgl_kernel has no CPU wheel; its submodules stay missing, for which SGLang has fallbacks of its own."""
    module = types.ModuleType("sgl_kernel")
    module.__spec__ = importlib.machinery.ModuleSpec("sgl_kernel", None, is_package=True)
    module.__path__ = []

    def missing(name: str):
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args, **kwargs):
            raise RuntimeError(f"sgl_kernel.{name} was called, but the CPU shim has no kernels")

        return call

    module.__getattr__ = missing
    sys.modules["sgl_kernel"] = module


def _stub_triton() -> None:
    sys.meta_path.append(_StubFinder("triton"))
    import triton

    triton.__version__ = "3.0.0"
    triton.cdiv = lambda a, b: -(a // -b)
    triton.next_power_of_2 = lambda n: 1 << (n - 1).bit_length() if n > 0 else 1


def _stub_torchvision() -> None:
    """After transformers has noted that torchvision is absent: it must not try to use the stub."""
    from transformers.utils import import_utils

    import_utils.is_torchvision_available()
    import_utils.is_torchvision_v2_available()
    sys.meta_path.append(_StubFinder("torchvision"))


def _replace_image_processor() -> None:
    """Without torchvision transformers has a stand-in that raises when SGLang registers its multimodal processors with it."""
    import transformers

    if getattr(transformers.AutoImageProcessor, "is_dummy", False):
        transformers.AutoImageProcessor = type("AutoImageProcessor", (), {"register": staticmethod(lambda *args, **kwargs: None)})


def _allow_seeded_sampling() -> None:
    """SGLang samples by seed in its deterministic mode alone, which it knows for GPU attention only and joins to Triton kernels.

    On CPU its usual kernels are taken as they are: a row of a batch is computed almost, not exactly, as if it were alone.
    """
    import sglang.kernels.ops.sampling.murmur_hash as hashing
    import sglang.srt.batch_invariant_ops as batch_invariant
    import sglang.srt.server_args as server_args

    server_args.DETERMINISTIC_ATTENTION_BACKEND_CHOICES.append("torch_native")
    batch_invariant.enable_batch_invariant_mode = lambda *args, **kwargs: None
    hashing.murmur_hash32 = _hash32


def _hash32(seed, positions, columns):
    """A 32-bit hash of seed [n], position [n] and column [m], as int64 [n, m]; stands in for a kernel of sgl_kernel.

    Not the same numbers as on GPU: there is nothing to compare them with.
    """
    low = 0xFFFFFFFF

    def mix(x):
        x = ((x ^ (x >> 16)) * 0x7FEB352D) & low
        x = ((x ^ (x >> 15)) * 0x846CA68B) & low
        return x ^ (x >> 16)

    rows = mix(mix(seed.long() & low) ^ (positions.long() & low))
    return mix(rows[:, None] ^ mix(columns.long() + 1)[None, :])


def _fork_processes() -> None:
    """A server's other processes are forked from its launcher, which has no threads yet: spawned ones would import everything again."""
    import sglang.srt.entrypoints.engine as engine

    set_environment = engine._set_envs_and_config

    def set_environment_and_fork(*arguments, **options) -> None:
        set_environment(*arguments, **options)  # asks for spawned processes
        multiprocessing.set_start_method("fork", force=True)

    engine._set_envs_and_config = set_environment_and_fork


def install() -> None:
    """Make `import sglang` work on a CPU-only torch, and SGLang start in seconds there."""
    import torch

    if torch.cuda.is_available():
        return
    os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a tiny model is 2 to 8 times faster on one thread
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # the compiler would need the real triton
    for package, stub in (("sgl_kernel", _stub_kernels), ("torchvision", _stub_torchvision), ("triton", _stub_triton)):
        if importlib.util.find_spec(package) is None:
            stub()
    torch.cuda.synchronize = lambda device=None: None  # the weight checker calls it whatever the device
    import sglang  # noqa: F401 (transformers' stand-in is replaced after SGLang has patched transformers)

    cpu_products.install()
    _replace_image_processor()
    _allow_seeded_sampling()
    _fork_processes()
    cpu_attention.install()
    cpu_sampling.install()


install()

if __name__ == "__main__":
    from sglang.launch_server import run_server
    from sglang.srt.server_args import prepare_server_args
    from sglang.srt.utils import kill_process_tree

    # Our parent is gone (see server.py). Children that are still starting would not notice that we went: all go together.
    signal.signal(signal.SIGHUP, lambda *_: os.killpg(0, signal.SIGKILL))
    try:
        run_server(prepare_server_args(sys.argv[1:]))
    finally:
        kill_process_tree(os.getpid(), include_parent=False)
