"""The protocol as values, shared by host and engine; pure except `wire`, which alone sees protobuf."""
