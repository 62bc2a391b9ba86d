"""Claims of the topic gradient_debugging."""

from book.claims.gradient_debugging import gpu_monitoring

CLAIMS = gpu_monitoring.CLAIMS
