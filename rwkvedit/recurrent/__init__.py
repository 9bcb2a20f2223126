"""The RWKV-7 wing: forward pass, State, calibration, address, edit."""
