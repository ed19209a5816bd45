"""Mechanism tests: what a memory does by itself, with synthetic keys and values and nothing trained."""

from palimpsest.probes.mechanism.suite import TESTS, jobs, run_mechanism

__all__ = ["TESTS", "jobs", "run_mechanism"]
