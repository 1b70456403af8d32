"""Load tests: scenarios as files, run against real servers. Speaks the command line, Kafka and HTTP only."""
