"""What the machine says of itself: cards through NVML, process memory, and a sampler that follows both."""
