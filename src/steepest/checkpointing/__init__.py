"""Gradient checkpointing: activations recomputed in the backward pass instead of kept, and what that saves."""

from steepest.checkpointing.checkpoint import checkpoint
from steepest.checkpointing.checkpoint_function import CheckpointFunction
from steepest.checkpointing.layer_bytes import LayerBytes, layer_bytes
from steepest.checkpointing.live_memory import LiveMemory
from steepest.checkpointing.segments import SegmentPlan, optimal_segments, segment_peak
from steepest.checkpointing.sequential import checkpoint_sequential, segment_sizes
from steepest.checkpointing.timeline import MemoryEvent, layer_trace, memory_timeline

__all__ = [
    "CheckpointFunction",
    "LayerBytes",
    "LiveMemory",
    "MemoryEvent",
    "SegmentPlan",
    "checkpoint",
    "checkpoint_sequential",
    "layer_bytes",
    "layer_trace",
    "memory_timeline",
    "optimal_segments",
    "segment_peak",
    "segment_sizes",
]
