"""The small pipelines that ship with this project."""
