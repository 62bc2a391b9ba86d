"""Claims of the topic checkpointing."""

from book.claims.checkpointing import gpu_encoder, gpu_resnet, gpu_table

CLAIMS = (
    *gpu_encoder.CLAIMS,
    *gpu_resnet.CLAIMS,
    *gpu_table.CLAIMS,
)
