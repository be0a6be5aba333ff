"""The one schema of every measurement, and reading, comparing and naming what is in it."""
