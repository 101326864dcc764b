"""From a trained ANN to a spiking network (`convert`, `balance`) and to the integer graph (`lower`)."""
