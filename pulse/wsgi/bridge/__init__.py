"""The bridges: any handler, synchronous or not, under any server, synchronous or not."""
