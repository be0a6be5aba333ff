"""Distillation to few steps and to linear attention: roles on one backbone, objectives one file each, one trainer."""
