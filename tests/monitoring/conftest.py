"""The stage of the end-to-end tests serves here as well."""

from __future__ import annotations

from tests.e2e.conftest import shared_stage

__all__ = ("shared_stage",)
