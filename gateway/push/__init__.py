"""Streams and long polls: who is told what changes, instead of asking again and again."""
