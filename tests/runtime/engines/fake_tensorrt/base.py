"""What all fake TensorRT objects share: the process they live in, and how pybind11's objects behave."""

from __future__ import annotations

CRASH_NOTE = "TensorRT took the process down"


class SegmentationFault(BaseException):
    """The real library would have ended the process here; nothing may catch this."""


class UnwrittenError(AssertionError):
    """A real name, for which the fake has no behaviour yet."""


class Process:
    """What is there once per process: the GPU, the one logger, and whether it is still alive."""

    def __init__(self, version, driver):
        self.version = version
        self.major = int(version.split(".")[0])
        self.driver = driver
        self.logger = None
        self.crashed = ""

    def crash(self, reason):
        """End the process."""
        self.crashed = reason
        raise SegmentationFault(f"{CRASH_NOTE}: {reason}")

    def check_alive(self):
        """A dead process runs nothing."""
        if self.crashed:
            raise SegmentationFault(f"{CRASH_NOTE} before this: {self.crashed}")

    def adopt(self, logger):
        """The first logger of the process is used for everything; later ones hear of that."""
        self.check_alive()
        if not isinstance(logger, self.classes["ILogger"]):
            raise TypeError(f"__init__(): incompatible function arguments, a logger was expected, not {logger!r}")
        if self.logger is None:
            self.logger = logger
        elif self.logger is not logger:
            text = "The logger passed into createInferBuilder differs from one already registered for an existing "
            logger.log(self.severity.WARNING, text + "builder, runtime, or refitter. It is ignored.")

    def error(self, message):
        """Log an error of the library."""
        self.check_alive()
        self.logger.log(self.severity.ERROR, message)

    def require_device(self):
        """Raise what the bindings raise where there is no driver: the C++ side returned a null pointer."""
        self.check_alive()
        if self.driver is None:
            self.error("CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def new(self, name, *values):
        """An object of a class that Python cannot construct."""
        self.check_alive()
        kind = self.classes[name]
        made = kind.__new__(kind)
        made._setup(*values)
        return made


class NativeType(type):
    """pybind11 refuses an object of a derived class whose `__init__` did not call the base's."""

    def __call__(cls, *values, **named):
        made = super().__call__(*values, **named)
        if not cls.__dict__.get("_native") and not getattr(made, "_initialised", False):
            raise TypeError(f"{cls.__name__}.__init__() must be called when overriding __init__")
        return made


class Native(metaclass=NativeType):
    """Like pybind11's objects: no attribute can be added, unless Python derived a class."""

    _native = False

    def __init__(self):
        if type(self).__dict__.get("_native"):
            raise TypeError(f"{type(self).__name__}: No constructor defined!")

    def __setattr__(self, name, value):
        if type(self).__dict__.get("_native") and not name.startswith("_") and not hasattr(type(self), name):
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        object.__setattr__(self, name, value)


def setting(name, default=None, check=None):
    """A property that is stored and means nothing to the fake, or that other code reads; `check` may change it."""

    def read(self):
        return getattr(self, f"_{name}", default)

    def write(self, value):
        setattr(self, f"_{name}", check(self, value) if check else value)

    return property(read, write)


def unwritten_member(owner, member, form):
    """Stand for a real member without behaviour: there, but not usable."""

    def refuse(self, *arguments, **named):
        raise UnwrittenError(f"the fake TensorRT has no behaviour for {owner}.{member}")

    if form in ("property", "writable property"):
        return property(refuse, refuse if form.startswith("writable") else None)
    refuse.__name__ = member
    return refuse
