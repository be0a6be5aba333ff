"""Evaluations as papers report them: COCO, MJHQ, PartiPrompts, VBench-style and fidelity, in one resumable engine.

Prompts and real images come from the disk, pictures are kept as PNG files, and every number is computed from those
files: who stops it and goes on, or shares it out over processes, ends in the same numbers.
"""
