"""Attention layers: LLaMA's projections around one file per kind of attention."""

from palimpsest.attention.base import Attention
from palimpsest.attention.cache import SegmentCacheLayer, StateCacheLayer
from palimpsest.attention.compressive import CompressiveAttention
from palimpsest.attention.delta_net import DeltaNetAttention
from palimpsest.attention.full import FullAttention, FullCacheLayer
from palimpsest.attention.gated import GatedAttention
from palimpsest.attention.linear_attention import LinearAttention
from palimpsest.attention.memorizing import MemorizingAttention
from palimpsest.attention.memory import MemoryAttention
from palimpsest.attention.segment_local import SegmentLocalAttention
from palimpsest.attention.segmentwise import Probe, SegmentStateAttention, SegmentwiseAttention, Site
from palimpsest.attention.sliding_window import SlidingWindowAttention
from palimpsest.attention.spec import AttentionSpec
from palimpsest.attention.transformer_xl import TransformerXLAttention

__all__ = [
    "Attention",
    "AttentionSpec",
    "CompressiveAttention",
    "DeltaNetAttention",
    "FullAttention",
    "FullCacheLayer",
    "GatedAttention",
    "LinearAttention",
    "MemorizingAttention",
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
