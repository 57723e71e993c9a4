"""Durable storage behind one seam (`base.py`); every implementation passes the same conformance suite."""
