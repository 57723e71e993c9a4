"""The Stepwire engine: it owns every run, journals it, schedules it and survives crashes."""
