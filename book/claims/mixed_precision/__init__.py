"""Claims of the topic mixed_precision."""

from book.claims.mixed_precision import gpu_memory, gpu_numerics, gpu_speed

CLAIMS = (
    *gpu_speed.CLAIMS,
    *gpu_memory.CLAIMS,
    *gpu_numerics.CLAIMS,
)
