"""Globals that no checkpoint needs, and what each would do.

The table is for naming what is found; it is no boundary. What is in neither table is refused as well: of Python's
standard library as a danger (but for the few classes that hyperparameters use), of anything else as code.
"""

from __future__ import annotations

import sys

_PROGRAM = "starts programs"
_SYSTEM = "reaches the operating system"
_EVALUATES = "runs Python text"
_IMPORTS = "imports or runs other code"
_ATTRIBUTES = "reaches any attribute or function by its name"
_UNPICKLES = "unpickles without limits"
_FILES = "reads, writes or deletes files"
_NETWORK = "opens network connections"
_NATIVE = "calls native code"
_CODE = "makes functions out of bytes"
_DELAYS = "runs a function later, or elsewhere"
_CALLS = "calls a function that it is given"
_WATCHES = "runs code under a debugger or profiler"
_INTERPRETER = "changes the interpreter"

DANGEROUS: dict[str, str] = {
    **dict.fromkeys(("os", "posix", "nt", "posixpath", "ntpath", "fcntl", "resource", "signal"), _SYSTEM),
    **dict.fromkeys(("subprocess", "_posixsubprocess", "pty", "commands", "popen2", "pexpect", "webbrowser",
                     "pydoc", "imaplib", "distutils", "torch.utils.collect_env", "sh", "_osx_support"), _PROGRAM),
    **{f"builtins.{name}": _EVALUATES for name in ("eval", "exec", "compile", "execfile")},
    **dict.fromkeys(("code", "codeop", "timeit", "doctest", "idlelib", "IPython", "jinja2", "numexpr", "pandas.eval",
                     "pandas.core.computation", "numpy.f2py", "numpy.testing", "numpy.distutils", "sympy",
                     "torch.jit.unsupported_tensor_ops", "torch.fx", "torch._dynamo", "torch._inductor",
                     "torch._functorch", "torch.utils._sympy", "torch.testing"), _EVALUATES),
    **{f"builtins.{name}": _ATTRIBUTES for name in ("getattr", "setattr", "delattr", "vars", "globals", "locals",
                                                    "apply")},
    **dict.fromkeys(("operator", "_operator", "inspect", "gc", "weakref", "types.MethodType"), _ATTRIBUTES),
    **{f"builtins.{name}": _CALLS for name in ("map", "filter", "max", "min", "sorted", "reduce", "sum", "iter")},
    **dict.fromkeys(("functools", "_functools", "itertools", "contextlib", "concurrent", "torch.utils._pytree",
                     "torch.utils.checkpoint", "torch.multiprocessing", "torch.distributed.rpc"), _CALLS),
    **dict.fromkeys(("builtins.__import__", "builtins.reload"), _IMPORTS),
    **dict.fromkeys(("importlib", "imp", "runpy", "pkgutil", "zipimport", "site", "pip", "ensurepip", "venv",
                     "setuptools", "pkg_resources", "zipapp", "modulefinder", "logging.config", "torch.hub",
                     "torch.package", "torch.utils.cpp_extension", "torch.ops", "torch._ops", "torch.classes",
                     "torch._classes"), _IMPORTS),
    **dict.fromkeys(("pickle", "_pickle", "cPickle", "shelve", "marshal", "joblib", "dill", "cloudpickle", "hickle",
                     "yaml", "ruamel", "torch.load", "torch.serialization.load", "torch.serialization._load",
                     "torch.serialization._legacy_load", "torch.jit.load", "torch.jit._serialization",
                     "torch.export.load", "torch.storage._load_from_bytes", "torch.utils.data.datapipes",
                     "torch.utils.model_zoo", "numpy.load", "numpy.loads", "numpy.lib.npyio", "numpy.lib._npyio_impl",
                     "numpy.lib.format", "pandas.read_pickle", "pandas.io.pickle", "torch.multiprocessing.reductions"),
                    _UNPICKLES),
    **dict.fromkeys(("builtins.open", "builtins.file", "io", "_io", "codecs", "_codecs", "shutil", "tempfile", "glob",
                     "fileinput", "linecache", "zipfile", "tarfile", "gzip", "bz2", "lzma", "sqlite3", "_sqlite3",
                     "dbm", "mmap", "logging.FileHandler", "logging.handlers", "numpy.memmap", "numpy.fromfile",
                     "numpy.savetxt", "numpy.save", "numpy.savez", "numpy.loadtxt", "numpy.genfromtxt",
                     "numpy.DataSource", "torch.from_file", "torch.save", "torch.serialization.save",
                     "torch.UntypedStorage.from_file", "torch.TypedStorage.from_file", "torch.PyTorchFileReader",
                     "torch.PyTorchFileWriter", "torch._C.PyTorchFileReader", "torch._C.PyTorchFileWriter"), _FILES),
    **{f"pathlib.{kind}.{name}": _FILES
       for kind in ("Path", "PosixPath", "WindowsPath")
       for name in ("open", "write_text", "write_bytes", "read_text", "read_bytes", "unlink", "rmdir", "mkdir", "touch",
                    "rename", "replace", "chmod", "symlink_to", "hardlink_to", "iterdir", "glob", "rglob")},
    **dict.fromkeys(("socket", "_socket", "socketserver", "ssl", "urllib", "urllib2", "urllib3", "http", "httplib",
                     "httpx", "aiohttp", "requests", "ftplib", "smtplib", "poplib", "nntplib", "telnetlib", "xmlrpc",
                     "paramiko", "fsspec", "huggingface_hub"), _NETWORK),
    **dict.fromkeys(("ctypes", "_ctypes", "cffi", "_cffi_backend", "numpy.ctypeslib", "torch._C._import"), _NATIVE),
    **dict.fromkeys(("types.FunctionType", "types.CodeType", "types.LambdaType", "types.new_class",
                     "types.DynamicClassAttribute", "builtins.classmethod", "builtins.staticmethod"), _CODE),
    **dict.fromkeys(("atexit", "threading", "_thread", "multiprocessing", "_multiprocessing", "asyncio", "sched",
                     "queue"), _DELAYS),
    **dict.fromkeys(("pdb", "bdb", "cProfile", "profile", "trace", "cmd", "faulthandler"), _WATCHES),
    **dict.fromkeys(("builtins.breakpoint", "builtins.input", "builtins.raw_input", "builtins.exit", "builtins.quit",
                     "sys", "copyreg", "copy_reg", "builtins.help"), _INTERPRETER),
}  # fmt: skip
"""A module, or a function, and what lies below it, to what it does."""

HARMLESS_STANDARD = {
    "_codecs.encode",
    "argparse.Namespace",
    "array.array",
    "array._array_reconstructor",
    "collections",
    "copyreg._reconstructor",
    "copyreg.__newobj__",
    "copyreg.__newobj_ex__",
    "dataclasses",
    "datetime",
    "_decimal",
    "decimal",
    "enum",
    "fractions",
    "functools.partial",
    "io.BytesIO",
    "io.StringIO",
    "_io.BytesIO",
    "_io.StringIO",
    "logging.Logger",
    "logging.getLogger",
    "numbers",
    "pathlib",
    "random.Random",
    "re.RegexFlag",
    "re._compile",
    "string.Template",
    "time.struct_time",
    "types.SimpleNamespace",
    "typing",
    "uuid.UUID",
    "zoneinfo.ZoneInfo",
    "builtins.range",
    "builtins.memoryview",
    "builtins.Ellipsis",
    "builtins.NotImplemented",
    "builtins.property",
}
"""Of the standard library, what hyperparameters and user classes bring along: refused as code, and no more."""
LONGEST_NAME = 500
_EXCEPTIONS = ("Error", "Exception", "Warning", "Interrupt", "Exit", "StopIteration")


def danger_of(module: str, name: str) -> str | None:
    """What a global would do that no checkpoint needs; None where nothing is known against it.

    A name with dots is a walk through attributes, as protocol 4 allows; where it leads back into a dangerous module
    (`torch.serialization` and `os.system`), that counts.
    """
    full = f"{module}.{name}"
    if len(full) > LONGEST_NAME:
        return f"has a name of {len(full):,} letters, as nothing has that can be imported"
    steps = name.split(".")
    if any(step.startswith("__") and step.endswith("__") for step in steps) and full not in HARMLESS_STANDARD:
        return _longest_entry(full)[1] or "reaches into the inside of Python objects"
    if len(steps) > 1:
        walked = next((said for begin in range(len(steps)) if (said := _of_walk(".".join(steps[begin:])))), None)
        if walked:
            return walked
    listed, said = _longest_entry(full)
    return said if listed else _of_library(module, name)


def _longest_entry(full: str) -> tuple[bool, str | None]:
    """Whether either table lists the name, or what it lies below, and the danger; the longest entry decides."""
    steps = full.split(".")
    for end in range(len(steps), 0, -1):
        entry = ".".join(steps[:end])
        if entry in DANGEROUS or entry in HARMLESS_STANDARD:
            return True, DANGEROUS.get(entry)
    return False, None


def _of_walk(rest: str) -> str | None:
    """Of what a walk arrives at: modules are often imported under a leading underscore, such as `_sys`."""
    bare = rest.lstrip("_")
    return _longest_entry(bare)[1] if bare.partition(".")[0] in sys.stdlib_module_names else None


def _of_library(module: str, name: str) -> str | None:
    """What is of the standard library, and not known to be harmless."""
    root = module.partition(".")[0]
    if root not in sys.stdlib_module_names and root not in ("test", "commands"):
        return None
    if root == "builtins" and name.endswith(_EXCEPTIONS):
        return None
    return "is a part of Python's standard library that no checkpoint needs"
