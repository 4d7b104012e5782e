"""Looks up each argument by socket.getaddrinfo, and prints one line of addresses for each."""
import socket
import sys

for name in sys.argv[1:]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        print(*(address[0] for *_, address in found))
    except socket.gaierror as error:
        print("not found" if error.errno == socket.EAI_NONAME else f"error: {error}")
