"""The way to the vendor: accounts with their keys, and the transport."""
