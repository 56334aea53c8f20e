"""`chat-gateway demo`: emulator, gateway and clients on this machine, and what they did."""
