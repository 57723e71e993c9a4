"""The parts of a flow's context: what `ctx.step` and `ctx.group` are, for async and for sync flows."""
