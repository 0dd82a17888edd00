"""The machine: devices, random numbers, the terminal."""
