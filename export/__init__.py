"""The integer graph and its file: `graph` (the IR), `lower`, `passes`, `quantize`, `limits`, `netx`."""
