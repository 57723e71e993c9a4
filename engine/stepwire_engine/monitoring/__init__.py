"""Dashboards, alerts and recording rules for people who run Stepwire (MISSION V2): values here, files by `export`.

They say how the metrics of `telemetry` and of hosts are read. Nothing here measures, and no expression names a metric
that is not in those tables; a test compares them.
"""
