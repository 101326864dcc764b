"""The ground floor, numpy only: `graph` (the IR), `passes`, `quantize`, `limits`, and the files `netx` and `nir`."""
