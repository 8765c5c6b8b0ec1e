"""Object detection: SNIPER chips, the detector, inference, average precision."""
