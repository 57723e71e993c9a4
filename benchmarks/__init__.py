"""Measures the engine and the SDK as their users run them: `python -m benchmarks` (`make bench`). See README.md here.

Nothing here is imported by the product, and nothing in the product knows that it is measured.
"""
