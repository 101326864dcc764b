"""The ground floor, numpy only: `graph` (the IR), its `passes`, `quantize`, `limits`, and the files `netx` and `nir`."""
