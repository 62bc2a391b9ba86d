"""Misconceptions about gradient checkpointing, written into the reference."""

from tests.mutants import mutants_in

CHECKPOINT = (
    "tests/checkpointing/test_checkpoint_gradients.py",
    "tests/checkpointing/test_checkpoint_memory.py",
    "tests/checkpointing/test_checkpoint_state.py",
    "tests/checkpointing/test_checkpoint_errors.py",
)
FUNCTION = ("tests/checkpointing/test_checkpoint_function.py",)
SEQUENTIAL = ("tests/checkpointing/test_sequential.py",)
SEGMENTS = ("tests/checkpointing/test_segments.py",)
MEMORY = ("tests/checkpointing/test_live_memory.py",)
TIMELINE = ("tests/checkpointing/test_timeline.py",)

MUTANTS = [
    *mutants_in(
        "steepest/checkpointing/forward_state.py",
        CHECKPOINT,
        ("random numbers not restored for the recomputation", "                torch.set_rng_state(self.cpu)\n", ""),
        (
            "random numbers not put back after the recomputation",
            "                stack.callback(torch.set_rng_state, torch.get_rng_state())\n",
            "",
        ),
        (
            "random numbers of CUDA devices not restored",
            "                torch.cuda.set_rng_state(state, device)\n",
            "",
        ),
        (
            "random numbers of CUDA devices not put back",
            "                stack.callback(torch.cuda.set_rng_state, torch.cuda.get_rng_state(device), device)\n",
            "",
        ),
        ("random numbers of a generator argument not restored", "                generator.set_state(state)\n", ""),
        (
            "a generator argument not put back",
            "                stack.callback(generator.set_state, generator.get_state())\n",
            "",
        ),
        (
            "autocast not restored for the recomputation",
            "                stack.enter_context(torch.autocast(**arguments))\n",
            "                pass\n",
        ),
        (
            "autocast restored with the default dtype",
            '                "dtype": torch.get_autocast_dtype(device_type),\n',
            "",
        ),
        (
            "autocast's cache switch not restored",
            '                "cache_enabled": torch.is_autocast_cache_enabled(),\n',
            "",
        ),
        (
            "autocast only restored where it was on, so that a backward pass under autocast recomputes in it",
            "            if torch.amp.is_autocast_available(device_type)\n",
            "            if torch.is_autocast_enabled(device_type)\n",
        ),
        (
            "autocast on CUDA goes unnoticed where nothing ran there yet",
            'if cuda_initialized or torch.is_autocast_enabled("cuda"):',
            "if cuda_initialized:",
        ),
        (
            "CUDA first used inside the region goes unnoticed",
            "if self.cpu is not None and torch.cuda.is_initialized() and not self.cuda_initialized:",
            "if False:",
        ),
    ),
    *mutants_in(
        "steepest/checkpointing/forward_state.py",
        FUNCTION,
        (
            "random numbers not restored for the recomputation of the Function",
            "                torch.set_rng_state(self.cpu)\n",
            "",
        ),
        (
            "autocast not restored for the recomputation of the Function",
            "                stack.enter_context(torch.autocast(**arguments))\n",
            "                pass\n",
        ),
    ),
    *mutants_in(
        "steepest/checkpointing/checkpoint.py",
        CHECKPOINT,
        (
            "random numbers captured after the forward pass",
            "    region.state.require_cuda_was_captured()\n",
            "    region.state = region.state.capture([*args, *kwargs.values()], preserve_rng_state)\n",
        ),
        (
            "preserve_rng_state=False ignored",
            "Region(function, args, kwargs, preserve_rng_state)",
            "Region(function, args, kwargs, True)",
        ),
        ("plain composition passed off as checkpointing", "    if not torch.is_grad_enabled():\n", "    if True:\n"),
    ),
    *mutants_in(
        "steepest/checkpointing/sequential.py",
        SEQUENTIAL,
        (
            "plain composition passed off as checkpointing, in segments",
            "input = checkpoint(_chain(layers[start : start + size]), input, preserve_rng_state=preserve_rng_state)",
            "input = _chain(layers[start : start + size])(input)",
        ),
        ("last segment forgotten", "    return _chain(layers[start:])(input)\n", "    return input\n"),
        (
            "last segment recomputed too",
            "    return _chain(layers[start:])(input)\n",
            "    return checkpoint(_chain(layers[start:]), input, preserve_rng_state=preserve_rng_state)\n",
        ),
        (
            "one checkpoint around all segments",
            "    for size in sizes[:-1]:\n",
            "    for size in [sum(sizes[:-1])] if len(sizes) > 1 else []:\n",
        ),
        ("random numbers always preserved in segments", "input, preserve_rng_state=preserve_rng_state)", "input)"),
        (
            "the remainder of a division goes to the first segment",
            "return (size,) * (segments - 1) + (n_layers - size * (segments - 1),)",
            "return (n_layers - size * (segments - 1),) + (size,) * (segments - 1)",
        ),
    ),
    *mutants_in(
        "steepest/checkpointing/region.py",
        CHECKPOINT,
        (
            "recomputation without recording gradients",
            "self.state.restored(), torch.enable_grad(), saved_tensors_hooks",
            "self.state.restored(), saved_tensors_hooks",
        ),
        (
            "the whole function is recomputed, beyond what is needed",
            "            if index == last:\n                raise _Recomputed\n",
            "",
        ),
        (
            "recomputes as far as the forward pass saved, though the graph needs less",
            "        last = max(slots)\n",
            "        last = len(self.slots) - 1\n",
        ),
        (
            "runs again for every saved tensor",
            "            if torch._C._current_graph_task_id() == -1:\n                self.empty_slots()\n",
            "            self.empty_slots()\n",
        ),
        (
            "saved tensors kept by the region beside their slots",
            "        slot = _Slot()\n",
            "        slot = _Slot()\n        self.__dict__.setdefault('all', []).append(tensor)\n",
        ),
        (
            "recomputed tensors kept when they were read",
            "tensor, slot.tensor = slot.tensor, None",
            "tensor = slot.tensor",
        ),
        (
            "recomputed tensors that a partial backward pass did not read are kept",
            "        torch.autograd.Variable._execution_engine.queue_callback(empty)\n",
            "",
        ),
        (
            "recomputed tensors kept when read outside of a backward pass",
            "            if torch._C._current_graph_task_id() == -1:\n                self.empty_slots()\n",
            "",
        ),
        (
            "inputs kept to the end of the backward pass",
            "        region = weakref.ref(self)\n",
            "        region = lambda: self\n",
        ),
        (
            "inputs of an inner region kept by it and not by the outer one",
            "            self.leaves[place] = None\n",
            "            pass\n",
        ),
        (
            "a change of the input in place reported as torch reports it",
            'if "modified by an inplace operation" not in str(error):',
            "if True:",
        ),
        (
            "every error in recovering an input taken for a change in place",
            '            if "modified by an inplace operation" not in str(error):\n                raise\n',
            "",
        ),
        (
            "parameters changed between the passes go unnoticed",
            "if leaf is not None and leaf._version != version:",
            "if False:",
        ),
        (
            "changes of a parameter noticed only where autograd saved it itself and not a view",
            "origin = tensor if tensor._base is None else tensor._base",
            "origin = tensor",
        ),
        (
            "intermediates changed in place after they were saved go unnoticed",
            "        if tensor._version != slot.version:\n",
            "        if False:\n",
        ),
        (
            "a recomputation that does something else goes unnoticed",
            "            if _signature(tensor) != self.signatures[index]:\n",
            "            if False:\n",
        ),
        (
            "only the shapes of a recomputation are compared",
            "return tensor.shape, tensor.dtype, tensor.device, None if producer is None else producer.name()",
            "return tensor.shape, tensor.dtype, tensor.device, None",
        ),
        ("a recomputation that saves less goes unnoticed", "        if count <= last:\n", "        if False:\n"),
        (
            "the stop is no Exception, so that modules skip their exit hooks",
            "class _Recomputed(Exception):",
            "class _Recomputed(BaseException):",
        ),
        (
            "keyword arguments forgotten in the recomputation",
            "                self.function(*args, **kwargs)\n",
            "                self.function(*args)\n",
        ),
    ),
    *mutants_in(
        "steepest/checkpointing/checkpoint_function.py",
        FUNCTION,
        (
            "Function: the forward pass records and saves",
            "        with torch.no_grad():\n",
            "        with torch.enable_grad():\n",
        ),
        (
            "Function: the recomputation records nothing",
            "        with ctx.state.restored(), torch.enable_grad():\n",
            "        with ctx.state.restored():\n",
        ),
        (
            "Function: inputs not detached",
            "args[place] = tensor.detach().requires_grad_(tensor.requires_grad)",
            "args[place] = tensor",
        ),
        (
            "Function: requires_grad lost",
            "args[place] = tensor.detach().requires_grad_(tensor.requires_grad)",
            "args[place] = tensor.detach()",
        ),
        (
            "Function: every input made to require a gradient",
            "args[place] = tensor.detach().requires_grad_(tensor.requires_grad)",
            "args[place] = tensor.detach().requires_grad_(tensor.is_floating_point())",
        ),
        (
            "Function: gradients of other arguments not None",
            "argument.grad if isinstance(argument, torch.Tensor) else None for",
            "argument.grad if isinstance(argument, torch.Tensor) else torch.zeros(()) for",
        ),
        (
            "Function: gradients only for tensor arguments, in a row",
            "argument.grad if isinstance(argument, torch.Tensor) else None for argument in args]",
            "argument.grad for argument in args if isinstance(argument, torch.Tensor)]",
        ),
        (
            "Function: tensors kept on ctx itself",
            "        ctx.versions = [",
            "        ctx.tensors = tensors\n        ctx.versions = [",
        ),
        (
            "Function: a change by the function itself goes unnoticed",
            "            if _version(tensor) != version:\n",
            "            if False:\n",
        ),
        (
            "Function: adds to .grad of leaves that autograd.grad must not touch",
            "        if not torch.autograd._is_checkpoint_valid():\n",
            "        if False:\n",
        ),
        (
            "Function: second derivatives silently incomplete",
            "        if torch.is_grad_enabled():\n",
            "        if False:\n",
        ),
        (
            "Function: backward from the first output only",
            "torch.autograd.backward(*zip(*pairs, strict=True))",
            "torch.autograd.backward(*pairs[0])",
        ),
    ),
    *mutants_in(
        "steepest/checkpointing/segments.py",
        SEGMENTS,
        (
            "root n always optimal",
            "        divisions = [_least_peak(internal, boundary, workspace_bytes)]\n",
            "        divisions = [segment_sizes(n_layers, round(n_layers**0.5))]\n",
        ),
        (
            "one segment saves the most: only boundaries count",
            "peak = max(peak, boundaries + sum(internal[start : start + size]))",
            "peak = max(peak, boundaries)",
        ),
        (
            "more segments always save more: only the largest segment counts",
            "peak = max(peak, boundaries + sum(internal[start : start + size]))",
            "peak = max(peak, sum(internal[start : start + size]))",
        ),
        (
            "the search for the least peak trusts that sums are rounded alike",
            "min(limit, segment_peak(sizes, internal, boundary, workspace))",
            "segment_peak(sizes, internal, boundary, workspace)",
        ),
        (
            "all boundaries counted at every segment",
            "peak = max(peak, boundaries + sum(internal[start : start + size]))",
            "peak = max(peak, sum(boundary[sum(sizes[:i])] for i in range(len(sizes))) + "
            "sum(internal[start : start + size]))",
        ),
        (
            "the stored segment counted as recomputed",
            "workspace_bytes), n_layers - sizes[-1])",
            "workspace_bytes), n_layers)",
        ),
        (
            "a budget answered with the least peak instead of the fastest plan",
            "        if fastest is not None:\n",
            "        if False:\n",
        ),
        (
            "a budget used up although as little is recomputed at a lower peak",
            "_least_peak(internal, boundary, workspace_bytes, stored=fastest[-1])",
            "fastest",
        ),
        (
            "the backward pass's own memory left out of the budget",
            "            if boundaries + activations + workspace > limit:\n",
            "            if boundaries + activations > limit:\n",
        ),
    ),
    *mutants_in(
        "steepest/checkpointing/live_memory.py",
        MEMORY,
        (
            "memory counted by tensors, so that views count again",
            "            elif not any(storage is other for other in given):\n",
            "            else:\n",
        ),
        ("memory that is freed still counts", "            self._change(device, -size)\n", "            pass\n"),
        (
            "peak taken as the live bytes at the end",
            "        self._total_peak = max(self._total_peak, self._total)\n",
            "        self._total_peak = self._total\n",
        ),
        (
            "tensors made from Python numbers not counted",
            "() if operator is torch.ops.aten.lift_fresh.default else _storages((args, kwargs))",
            "_storages((args, kwargs))",
        ),
        ("a storage that grows counts with its first size", "        if size != before:\n", "        if False:\n"),
        (
            "storages kept alive by the counter",
            "        self._storages[key] = (weakref.ref(storage, freed), size, device)\n",
            "        self._storages[key] = (weakref.ref(storage, freed), size, device)\n"
            "        self.__dict__.setdefault('all', []).append(storage)\n",
        ),
    ),
    *mutants_in(
        "steepest/checkpointing/layer_bytes.py",
        MEMORY,
        (
            "a layer's output left out of what it keeps",
            "            internal.append(memory.live_bytes())\n",
            "            internal.append(memory.live_bytes() - output.numel() * output.element_size())\n",
        ),
        ("measuring leaves gradients behind", "            leaf.grad = gradient\n", "            pass\n"),
        (
            "measuring moves the random stream on",
            "    with ForwardState.capture((input,), True).restored(), torch",
            "    with ForwardState.capture((input,), False).restored(), torch",
        ),
    ),
    *mutants_in(
        "steepest/checkpointing/timeline.py",
        TIMELINE,
        (
            "recomputation shown as forward pass",
            'phase = "recompute" if torch.is_grad_enabled() else "backward"',
            'phase = "forward" if torch.is_grad_enabled() else "backward"',
        ),
        (
            "recomputation shown as backward pass",
            'phase = "recompute" if torch.is_grad_enabled() else "backward"',
            'phase = "backward"',
        ),
        (
            "a module left by the stop of the recomputation stays entered",
            "register_forward_hook(self._leave, always_call=True)",
            "register_forward_hook(self._leave)",
        ),
        (
            "operators of the backward pass named after the outermost module",
            "            if self not in node.metadata:\n",
            "            if True:\n",
        ),
        (
            "operators outside of modules named after the module before",
            "                node.register_hook(self._leave_backward)\n",
            "",
        ),
        (
            "nodes of the whole network named after its last module",
            "waiting, seen = list(_nodes(output)), set(before)",
            "waiting, seen = list(_nodes(output)), set()",
        ),
    ),
]
