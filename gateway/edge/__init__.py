"""Sockets to requests, replies to sockets."""
