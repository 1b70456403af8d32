"""`python -m tests.servers.kafka fetch`: get the broker's jars, or say in one line what is missing."""

import sys

from tests.servers.kafka.jars import fetch_jars, find_java
from tests.servers.process import ServerError

if sys.argv[1:] != ["fetch"]:
    sys.exit("usage: python -m tests.servers.kafka fetch")
try:
    find_java()
    print(fetch_jars())
except ServerError as failure:
    sys.exit(str(failure))
