"""Generated from `proto/` by `make proto`; do not edit. Only `protocol.wire` and the transports import it."""
