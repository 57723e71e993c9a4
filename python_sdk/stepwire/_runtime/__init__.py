"""What drives flows and steps inside a host process: executor, session, telemetry. Private to the SDK."""
