"""The gRPC services: the only place of the engine that maps protobuf and core values."""
