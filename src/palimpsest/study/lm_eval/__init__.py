"""lm-evaluation-harness, both ways: our checkpoints run in it, our tasks are tasks of it, our results have its layout.

Only ``palimpsest.study.lm_eval.layout`` works without the extra ``lm-eval``.
"""
