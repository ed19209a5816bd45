"""Attention layers: LLaMA's projections around one file per kind of attention."""

from palimpsest.attention.base import Attention
from palimpsest.attention.cache import SegmentCacheLayer, StateCacheLayer
from palimpsest.attention.full import FullAttention, FullCacheLayer
from palimpsest.attention.memory import MemoryAttention
from palimpsest.attention.segment_local import SegmentLocalAttention
from palimpsest.attention.segmentwise import Probe, SegmentStateAttention, SegmentwiseAttention, Site
from palimpsest.attention.sliding_window import SlidingWindowAttention
from palimpsest.attention.spec import AttentionSpec
from palimpsest.attention.transformer_xl import TransformerXLAttention

__all__ = [
    "Attention",
    "AttentionSpec",
    "FullAttention",
    "FullCacheLayer",
    "MemoryAttention",
    "Probe",
    "SegmentCacheLayer",
    "SegmentLocalAttention",
    "SegmentStateAttention",
    "SegmentwiseAttention",
    "Site",
    "SlidingWindowAttention",
    "StateCacheLayer",
    "TransformerXLAttention",
]
