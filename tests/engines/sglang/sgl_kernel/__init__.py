"""Stand-in for SGLang's CUDA kernels on a machine without CUDA: every name imports, calling one raises.

SGLang imports kernel names at module level also where a CPU path is taken later. Names that begin with a
capital letter become empty classes (they are used in annotations), all others objects that raise when called.
"""

import importlib.abc
import importlib.machinery
import sys
import types

__version__ = "0.4.10"  # SGLang refuses older kernels


class Absent:
    """A kernel that is not here."""

    def __init__(self, name):
        self.__dict__["name"] = name
        self.__name__ = name

    def __getattr__(self, attribute):
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return Absent(f"{self.name}.{attribute}")

    def __call__(self, *args, **kwargs):
        raise NotImplementedError(f"{self.name} is a CUDA kernel; this environment serves on the CPU")


def stand_in(module, name):
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {}) if name[:1].isupper() else Absent(f"{module}.{name}")


def __getattr__(name):
    return stand_in("sgl_kernel", name)


class Submodule(types.ModuleType):
    __path__ = ()

    def __getattr__(self, name):
        return stand_in(self.__name__, name)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Any `sgl_kernel.x.y` imports."""

    def find_spec(self, fullname, path, target=None):  # noqa: ARG002 - the protocol
        if fullname.startswith("sgl_kernel."):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec):
        return Submodule(spec.name)

    def exec_module(self, module):
        pass


sys.meta_path.insert(0, Finder())
