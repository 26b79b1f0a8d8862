"""One family of exceptions; each message says what was wrong, where, what was expected, what to do.

Errors that a Python programmer would look for under `ValueError` derive from it as well, so that
code written for other engines keeps catching them.
"""


class PerfxlmError(Exception):
    """Anything that perfxlm raises on purpose."""


class ValidationError(PerfxlmError, ValueError):
    """What a user passed cannot be used; nothing has happened yet.

    Args:
        parameter: The name of what was passed, where it has one.
        value: What was passed for it.
    """

    def __init__(
        self, message: str = "", *, parameter: str | None = None, value: object = None
    ) -> None:
        super().__init__(message)
        self.parameter = parameter
        self.value = value


class ArgumentError(ValidationError):
    """An argument of a public function has a value that cannot be used."""


class ModelError(PerfxlmError, ValueError):
    """The model cannot be found, or no installed recipe can build it."""


class ConfigError(ModelError):
    """The model's configuration asks for something that its recipe does not do."""


class CheckpointError(PerfxlmError, ValueError):
    """A model's file is missing, damaged, or of a kind that we do not read."""


class OperatorError(PerfxlmError, ValueError):
    """An operator was called with shapes, dtypes or attributes outside its definition."""


class GraphError(PerfxlmError):
    """A graph is malformed, or holds something that cannot be planned or exported."""


class NoKernelError(PerfxlmError):
    """No kernel, no decomposition and no fallback can run a node."""


class AmbiguousKernelError(PerfxlmError):
    """Two vendors' kernels claim the same node with the same priority."""


class PluginError(PerfxlmError):
    """A plugin breaks its contract with the core."""


class DeviceError(PerfxlmError):
    """No device answers to a name, or a device stopped working."""


class MemoryPlanError(PerfxlmError, MemoryError):
    """What was asked for does not fit into the memory that there is."""


class RequestError(ValidationError):
    """One request cannot be served; the others go on."""


class LogitsError(RequestError):
    """The model's logits are no numbers: a kernel or the weights are to blame, not the request."""


class EngineDeadError(PerfxlmError):
    """The engine's process has ended; what it ran is lost."""
