"""One network a file, each a class `Network`; the file's name is the network's name."""
