"""Speed and memory of ctrlib beside its peers and beside the floor of the machine; see README.md here."""
