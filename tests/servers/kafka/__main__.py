"""`python -m tests.servers.kafka fetch`: get the broker's jars, or say in one line what is missing."""

import sys

from tests.servers.kafka.jars import BrokerError, fetch_jars, find_java

if sys.argv[1:] != ["fetch"]:
    sys.exit("usage: python -m tests.servers.kafka fetch")
try:
    find_java()
    print(fetch_jars())
except BrokerError as failure:
    sys.exit(str(failure))
