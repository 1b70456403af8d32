"""From the store's chunks and change streams to what is known in memory."""
