"""Says whether Python's ssl accepts a server with this chain for a name, as strictly as Python 3.13 does by default.

verify.py ROOTS CHAIN KEY NAME → "ok", or the error.
"""

import ssl
import sys

roots, chain, key, name = sys.argv[1:]
server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
server.load_cert_chain(chain, key)
client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
client.load_verify_locations(roots)
client.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
sides = [
    client.wrap_bio(to_client, to_server, server_hostname=name),
    server.wrap_bio(to_server, to_client, server_side=True),
]
done = set()
while len(done) < 2:
    for side in sides:
        try:
            side.do_handshake()
            done.add(side)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            print(error)
            sys.exit(1)
print("ok")
