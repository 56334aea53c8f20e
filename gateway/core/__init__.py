"""The pure heart: values and decisions. No await, no clock, no logging, no environment, no third party."""
