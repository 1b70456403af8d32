"""The rim: the only modules that know a client library or the operating system."""
