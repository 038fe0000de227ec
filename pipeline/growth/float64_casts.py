"""A model that computes in float64 throughout, the islands of float32 in its class's code included."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_CASTS = (torch.Tensor.to, torch.Tensor.type)


class Float64Casts(TorchFunctionMode):
    """Within it what casts to float32 casts to float64.

    Classes take norms, softmaxes and rotary angles in float32, which is good to 1e-6 alone.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run a torch function, its dtype widened."""
        options = dict(kwargs or {})
        if func is torch.Tensor.float:
            return args[0].double()
        if func in _CASTS:
            args = [torch.float64 if argument is torch.float32 else argument for argument in args]
        if options.get("dtype") is torch.float32:
            options["dtype"] = torch.float64
        return func(*args, **options)
