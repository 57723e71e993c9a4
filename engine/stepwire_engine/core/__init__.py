"""The pure core: no I/O, clock, random, asyncio, grpc or logging. Everything comes in and goes out as a value."""
