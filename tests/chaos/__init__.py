"""What the machine, the network and the vendors do to syncd, by seeds: see README.md beside this file."""
