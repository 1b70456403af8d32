"""The way of one upload: ingest, fetch, scan, lookup, decide, emit. `match` is the spine, `worker` the loop."""
