"""What a recomputation has to find again besides its inputs: random number streams and autocast.

A region is computed twice, once forwards and once while the backward pass runs. By then the random number
generators have moved on and the `torch.autocast` block around the forward pass has been left. Dropout would draw
another mask, and the matrices would be multiplied in another dtype: the gradients would belong to another function.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ForwardState:
    """The random number streams and the autocast state as they were when a region's forward pass began.

    Attributes:
        cpu: state of the CPU's default generator, or None if random numbers aren't preserved.
        cuda: states of the default generators of the CUDA devices in use, by the device's index.
        generators: states of the `torch.Generator` objects among the region's arguments.
        autocasts: arguments of `torch.autocast`, one dict a device type.
        cuda_initialized: whether CUDA had been used at all by then.
    """

    cpu: torch.Tensor | None
    cuda: dict[int, torch.Tensor]
    generators: tuple[tuple[torch.Generator, torch.Tensor], ...]
    autocasts: tuple[dict[str, object], ...]
    cuda_initialized: bool

    @classmethod
    def capture(cls, leaves: Iterable[object], preserve_rng_state: bool) -> "ForwardState":
        """Return the present state, for a region whose arguments have these leaves.

        Args:
            leaves: the arguments, containers unpacked. Tensors name the devices, generators are captured too.
            preserve_rng_state: False leaves the random numbers out, which saves the copies of their states.
        """
        leaves = list(leaves)
        cuda_initialized = torch.cuda.is_initialized()
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        types = {"cpu", *(tensor.device.type for tensor in tensors)}
        # Whoever uses CUDA first inside the region may do so under autocast.
        if cuda_initialized or torch.is_autocast_enabled("cuda"):
            types.add("cuda")
        autocasts = tuple(
            {
                "device_type": device_type,
                "enabled": torch.is_autocast_enabled(device_type),
                "dtype": torch.get_autocast_dtype(device_type),
                "cache_enabled": torch.is_autocast_cache_enabled(),
            }
            for device_type in sorted(types)
            if torch.amp.is_autocast_available(device_type)
        )
        if not preserve_rng_state:
            return cls(None, {}, (), autocasts, cuda_initialized)
        devices = {tensor.device.index for tensor in tensors if tensor.device.type == "cuda"}
        if cuda_initialized:
            devices.add(torch.cuda.current_device())
        return cls(
            cpu=torch.get_rng_state(),
            cuda={device: torch.cuda.get_rng_state(device) for device in sorted(devices)},
            generators=tuple((leaf, leaf.get_state()) for leaf in leaves if isinstance(leaf, torch.Generator)),
            autocasts=autocasts,
            cuda_initialized=cuda_initialized,
        )

    def require_cuda_was_captured(self) -> None:
        """Raise RuntimeError if CUDA was first used after the capture, whose streams are then unknown."""
        if self.cpu is not None and torch.cuda.is_initialized() and not self.cuda_initialized:
            raise RuntimeError(
                "CUDA was first used inside the checkpointed function, so its random numbers could not be preserved; "
                "call torch.cuda.init() before, or pass preserve_rng_state=False"
            )

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Put the captured state in force, and the present one back at the end, whatever happens in between."""
        with contextlib.ExitStack() as stack:
            if self.cpu is not None:
                stack.callback(torch.set_rng_state, torch.get_rng_state())
                torch.set_rng_state(self.cpu)
            for device, state in self.cuda.items():
                stack.callback(torch.cuda.set_rng_state, torch.cuda.get_rng_state(device), device)
                torch.cuda.set_rng_state(state, device)
            for generator, state in self.generators:
                stack.callback(generator.set_state, generator.get_state())
                generator.set_state(state)
            for arguments in self.autocasts:
                stack.enter_context(torch.autocast(**arguments))
            yield
