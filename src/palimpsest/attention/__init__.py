"""Attention layers: LLaMA's projections around one file per kind of attention."""

from palimpsest.attention.base import Attention
from palimpsest.attention.full import FullAttention, FullCacheLayer
from palimpsest.attention.memory import MemoryAttention, Probe, Site
from palimpsest.attention.segment_local import SegmentCacheLayer, SegmentLocalAttention
from palimpsest.attention.spec import AttentionSpec

__all__ = [
    "Attention",
    "AttentionSpec",
    "FullAttention",
    "FullCacheLayer",
    "MemoryAttention",
    "Probe",
    "SegmentCacheLayer",
    "SegmentLocalAttention",
    "Site",
]
