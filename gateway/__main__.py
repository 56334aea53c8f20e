"""`python -m gateway` is `chat-gateway`."""

from gateway.cli import main

if __name__ == "__main__":
    main()
