"""`perfxlm.v1.metrics.reader`, where vLLM's users look for it."""

from perfxlm_core.engine.metrics import Counter, Gauge, Histogram, Metric, Vector

__all__ = ["Counter", "Gauge", "Histogram", "Metric", "Vector"]
