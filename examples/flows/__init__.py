"""One small flow per capability. Each module has a `host` to serve and an `INPUT` to start its flow with."""
