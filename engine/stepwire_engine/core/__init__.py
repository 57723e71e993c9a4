"""The pure core: no I/O, clock, random, asyncio, grpc or logging. Everything comes in as a value and goes out as one."""
